// The card of a head: its sections, and those that only heads have.
function cardContent(card, item) {
  const judged = h('div', { class: 'columns' }, saidSection(card), verdictSection(card));
  return [cardBar(item), failuresSection(card), judged, scorecardSection(card), agentSection(card), examplesSection(card), whereSection(card), writesSection(card),
    detectorsSection(card), scoresSection(card), madeSection(card), commandSection(card)].filter(Boolean);
}

function whereSection(card) {
  const [buckets, values] = card.histogram;
  const most = Math.max(1e-9, ...values.map((value) => value || 0));
  const bars = h('div', { class: 'histogram', role: 'img', 'aria-label': `Share by distance: ${buckets.map((name, i) => `${name}: ${fmt(values[i], 2)}`).join(', ')}` },
    buckets.map((name, i) => h('div', { class: 'bin' }, h('span', { class: 'n' }, values[i] ? fmt(values[i], 2) : ''),
      h('i', { '--p': `${(100 * (values[i] || 0)) / most}%` }), h('span', {}, name))));
  const stats = card.stats.filter((row) => row[3] !== null)
    .map(([name, unit, median, value, low, high, n]) => [name, `${fmt(value)}${unit ? ` ${unit}` : ''}`, interval(low, high), median === null ? '' : fmt(median), n ? fmt(n) : '']);
  return section('Where it looks', `over ${fmt(card.counts[0])} rows of ${fmt(card.counts[1])} documents`,
    h('div', { class: 'columns' },
      h('div', {}, h('h4', {}, 'Share by distance in tokens'), bars,
        h('div', { class: 'lists' }, totals('sources', card.sources), totals('destinations', card.destinations))),
      h('div', {}, table(['statistic', 'mean', '95 %', 'median', 'n'], stats, [1, 2, 3, 4]),
        h('p', { class: 'hint' }, `activity at the 1, 10, 25, 50, 75, 90, 99 % quantiles: ${card.activity.map((value) => fmt(value)).join(', ')}`),
        card.notes.map((note) => h('p', { class: 'hint' }, note)))));
}

function totals(title, rows) {
  if (!rows.length) return null;
  const more = rows.slice(10);
  const make = (part) => table([title, 'part', 'in text', '×'], part.map(([token, value, base]) => [mono(token), percent1(value), percent1(base), base && value !== null ? (value / base).toFixed(1) : '']), [1, 2, 3]);
  return h('div', {}, make(rows.slice(0, 10)), more.length ? h('details', { class: 'more' }, h('summary', {}, `${more.length} more`), make(more)) : null);
}
function percent1(value) { return value === null ? NONE : `${(100 * value).toFixed(1)} %`; }

function writesSection(card) {
  const { up, down, copies, n } = card.readout;
  if (!up.length && !down.length && copies[0] === null) return section('What it writes', '', h('p', { class: 'soft' }, 'No readout is available for this model.'));
  return section('What it writes', `read through the unembedding over ${fmt(n)} of its own top rows, in logits`,
    h('div', { class: 'lists' }, valueList('promotes', up), valueList('suppresses', down),
      h('div', {}, h('h4', {}, 'the attended token itself'), h('p', {}, `${signed(copies[0])} ${interval(copies[1], copies[2])} `, h('span', { class: 'hint' }, copies[1] > 0 ? 'copies it' : copies[2] < 0 ? 'suppresses it' : 'no clear sign')))));
}

function detectorsSection(card) {
  const rows = [...card.readings].sort((a, b) => (b[8] - a[8]) || (b[7] ?? 0) - (a[7] ?? 0)).map(([name, data, value, low, high, percentile, nullMax, lift, fires, n, detail]) => [
    h('span', { title: detail || null }, fires ? h('b', {}, words(name)) : words(name), detail ? h('span', { class: 'hint' }, ` ${detail}`) : null), data, fmt(value), interval(low, high), fmt(percentile), fmt(nullMax), lift === null ? NONE : `${fmt(lift, 2)} ×`, fires ? '● fires' : '', fmt(n)]);
  if (!rows.length) return null;
  return section('Detectors', 'against a random-weights model', table(['detector', 'measured on', 'value', '95 %', 'percentile', 'null max', 'over uniform', '', 'n'], rows, [2, 3, 4, 5, 6, 8]));
}
