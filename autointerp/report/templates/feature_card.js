// The card of a neuron or latent: its sections, and those that only they have.
function cardContent(card, item) {
  if (!card) return [cardBar(item), bareSection(item)];
  const judged = h('div', { class: 'columns' }, saidSection(card), verdictSection(card));
  return [cardBar(item), failuresSection(card), stateNote(item), judged, scorecardSection(card), agentSection(card), examplesSection(card), activationSection(card), readoutSection(card),
    steeringSection(card), rulesSection(card), neighboursSection(card), lensSection(card), scoresSection(card), madeSection(card), commandSection(card)].filter(Boolean);
}

const STATE_SAYS = {
  dead: 'It never activates on the text that was read, so it is not described.',
  dense: 'It is active in more than half of the positions of the text that was read, so it is not described.',
};
function stateNote(item) {
  return STATE_SAYS[item.state] ? h('p', { class: 'note', role: 'note' }, STATE_SAYS[item.state]) : null;
}

function bareSection(item) {
  const rows = [['density', item.density], ['active in', item.active_share], ['largest activation', item.maximum], ['reference activation', item.reference], ['mean activation', item.mean]];
  const why = STATE_SAYS[item.state] || (item.k === undefined ? 'It was not among the units that this run describes; only its activation was counted.'
    : `Its card is left out to keep the page small; it is in ${NOUN.file}.`);
  return h('section', {}, h('p', { class: 'note' }, why),
    h('dl', {}, rows.map(([name, value]) => [h('dt', {}, name), h('dd', {}, fmt(value))])), commandSection({ unit: item.unit }));
}

function activationSection(card) {
  const stats = card.stats.filter((row) => row[2] !== null)
    .map(([name, unit, value, low, high, n]) => [name, `${fmt(value)}${unit ? ` ${unit}` : ''}`, interval(low, high), n ? fmt(n) : '']);
  const make = (part) => table(['token', 'part', 'in text', '×', 'active in'], part.map(([token, value, base, active, rows]) => [mono(token), percent1(value), percent1(base),
    base && value !== null ? fmt(value / base, 2) : '', `${fmt(active)} of ${fmt(rows)}`]), [1, 2, 3, 4]);
  const more = card.tokens.slice(10);
  return section('When it activates', `over ${fmt(card.counts[0])} positions of ${fmt(card.counts[1])} documents`,
    h('div', { class: 'columns' },
      h('div', {}, card.tokens.length ? h('h4', {}, 'Tokens by their part of the whole activation') : null, card.tokens.length ? make(card.tokens.slice(0, 10)) : h('p', { class: 'soft' }, 'No token was counted.'),
        more.length ? h('details', { class: 'more' }, h('summary', {}, `${more.length} more`), make(more)) : null),
      h('div', {}, table(['statistic', 'value', '95 %', 'n'], stats, [1, 2, 3]),
        card.quantiles.length ? h('p', { class: 'hint' }, `activation at the 1, 10, 25, 50, 75, 90, 99 % quantiles of where it is above 0: ${card.quantiles.map((value) => fmt(value)).join(', ')}`) : null,
        card.sign < 0 ? h('p', { class: 'hint' }, 'Its strongest activations are negative, so its sign is changed everywhere on this card.') : null,
        card.notes.map((note) => h('p', { class: 'hint' }, note)))));
}
function percent1(value) { return value === null ? NONE : `${(100 * value).toFixed(1)} %`; }

function readoutSection(card) {
  const found = card.readout;
  if (!found) return section('What it writes', '', h('p', { class: 'soft' }, 'Its direction cannot be read as logits here; see the notes above.'));
  const list = (title, values) => h('div', {}, h('h4', {}, title), h('ol', { class: 'values' }, values.map(([token, value]) => {
    const past = value !== null && found.random !== null && Math.abs(value) > found.random;
    return h('li', { class: past ? 'past' : 'under' }, mono(token), h('span', { class: 'n' }, `${value === null ? NONE : `${value > 0 ? '+' : ''}${value.toFixed(2)}`}${past ? '' : ' ·'}`));
  })));
  const heads = found.heads.length ? h('p', { class: 'hint' }, `share of each head in its direction: ${found.heads.map((value, i) => `H${i} ${percent(value)}`).join(', ')}`) : null;
  return section('What it writes', 'its direction at the reference activation, in centred logits',
    h('div', { class: 'lists' }, list('promotes', found.up), list('suppresses', found.down)),
    h('p', { class: 'hint' }, `A random direction of the same norm changes a token by up to ${fmt(found.random)}; what does not pass that is marked with a dot.`), heads);
}

// Strength against logit change; the interval and the controls stand at the strength that the score is at.
function steeringSection(card) {
  const found = card.steering;
  if (!found) return null;
  const { points, chosen } = found;
  const controls = found.controls.filter(([, value]) => value !== null);
  const xs = points.map(([strength]) => strength);
  const ys = [0, ...points.map(([, value]) => value), ...controls.map(([, value]) => value), ...[found.low, found.high].filter((value) => value !== null)];
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const x = (value) => 40 + (370 * xs.indexOf(value)) / Math.max(1, xs.length - 1);
  const y = (value) => 8 + (110 * (high - value)) / (high - low || 1);
  const there = xs.includes(chosen);
  const text = `logit change of the claimed tokens: ${points.map(([a, b]) => `${fmt(b)} at ${a} ×`).join(', ')}`;
  const parts = [svg('line', { x1: 30, x2: 420, y1: y(0), y2: y(0), class: 'axis' }),
    xs.map((value) => svg('text', { x: x(value), y: 134, class: 'num' }, `${value} ×`)),
    [high, 0, low].filter((value, i, all) => i === 1 || Math.abs(y(value) - y(all[1])) > 9).map((value) => svg('text', { x: 14, y: y(value) + 3, class: 'num' }, fmt(value, 2))),
    there && found.low !== null && found.high !== null ? svg('line', { x1: x(chosen), x2: x(chosen), y1: y(found.low), y2: y(found.high), class: 'span' }) : [],
    svg('polyline', { points: points.map(([a, b]) => `${x(a)},${y(b)}`).join(' ') }),
    points.map(([a, b]) => svg('circle', { cx: x(a), cy: y(b), r: a === chosen ? 4.5 : 3, class: 'at' }, svg('title', {}, `${fmt(b)} at ${a} ×`))),
    there ? controls.map(([name, value]) => svg('circle', { cx: x(chosen), cy: y(value), r: 4, class: 'null' }, svg('title', {}, `${name} ${fmt(value)}`))) : []];
  return section('Steering', 'its direction added where it rests, at strengths in reference activations; logit change of the claimed tokens over others',
    h('figure', { class: 'steer' }, svg('svg', { viewBox: '0 0 430 140', role: 'img', 'aria-label': text }, parts.flat(Infinity)),
      h('figcaption', {}, there ? `The score is that at ${chosen} ×, chosen on other text, with its 95 % interval. ` : null,
        controls.map(([name, value]) => h('span', {}, h('i'), `${name} ${fmt(value)}`)))));
}

function rulesSection(card) {
  const rows = card.rules.map(([name, predicate, f1, precision, recall, coverage, nullMax, active, predicted, fires, detail]) => [
    h('span', { title: detail || null }, fires ? h('b', {}, words(name)) : words(name)), h('div', { class: 'rule-text' }, h('code', {}, predicate)), fmt(f1, 2), fmt(precision, 2), fmt(recall, 2), percent(coverage), fmt(nullMax, 2),
    `${fmt(predicted)} / ${fmt(active)}`, fires ? '● fires' : '']);
  if (!rows.length) return null;
  return section('Simple rules', 'learned and measured on the explain split; null: the same on shuffled activations',
    table(['rule', 'predicate', 'F1', 'precision', 'recall', 'covers', 'null', 'named / active', ''], rows, [2, 3, 4, 5, 6, 7]));
}

function neighboursSection(card) {
  if (!card.neighbours.length) return null;
  return section('Most similar directions', '', h('div', { class: 'links' }, card.neighbours.map((unit) => {
    const item = BY_UNIT.get(unit);
    return item ? h('button', { type: 'button', title: item.summary || item.status, onclick: () => openCard(unit) }, unit, item.label ? ` ${words(item.label)}` : '') : h('span', { class: 'tag' }, unit);
  })));
}

function lensSection(card) {
  if (!card.lenses.length) return null;
  const rows = card.lenses.map(([lens, text, controls, specific, detail]) => [lens, mono(text || '∅'), h('span', { class: specific ? 'verdict v-supported' : 'tag' }, specific ? 'specific' : 'not specific'),
    controls.map((said, i) => [i ? ', ' : '', mono(said || '∅')]), detail]);
  return section('Its direction in words', 'beside the same read from other vectors', table(['lens', 'says', '', 'controls', ''], rows));
}
