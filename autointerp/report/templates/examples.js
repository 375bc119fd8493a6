// Examples: a row of tokens coloured by their part of the contribution, with numbers on hover and on focus.
const STRATA = {
  top: 'Where it does most', quantile: 'Across its range', random: 'Rows drawn at random', contrast: 'Where it rests',
};
const PER = 10000;

function examplesSection(card) {
  const parts = [];
  for (const [stratum, title] of Object.entries(STRATA)) {
    const rows = card.examples.filter((example) => example.stratum === stratum);
    if (!rows.length) continue;
    parts.push(h('details', { open: stratum === 'top', class: 'stratum' },
      h('summary', {}, `${title} `, h('span', { class: 'count' }, `${stratum} · ${rows.length}`)), rows.map(exampleRow)));
  }
  if (!parts.length) parts.push(h('p', { class: 'hint' }, 'No examples were kept for this head.'));
  if (card.omitted) {
    parts.push(h('p', { class: 'hint' }, `${card.omitted} more examples of this head are in heads.jsonl; the page keeps fewer to stay small.`));
  }
  parts.push(h('div', { class: 'legend small' }, h('span', {}, 'part of the contribution'),
    [0.02, 0.1, 0.25, 0.5, 1].map((part) => h('span', { class: 'tok key-part', '--p': strength(part) }, String(part))), h('span', { class: 'swatch framed' }), h('span', {}, 'destination'),
    h('span', { class: 'swatch sunk' }), h('span', {}, 'sink'), h('span', { class: 'hint' }, 'Hover, or tab to a row and use the arrow keys.')));
  return section('Examples', 'from the explain split', ...parts);
}

// Small parts must still show: colour grows with the 0.6th power, and the legend's swatches use the same function.
function strength(part) { return `${Math.round(100 * clamp(part) ** 0.6)}%`; }

function small(value) { return value === 0 ? 'below 0.0001' : fmt(value); }

function tokenLines(example, position) {
  const far = position === 0 && example.first > 0;
  const at = position - example.first;
  const token = far ? example.start[0] : example.tokens[at];
  if (position > example.dst) return [token, `${position - example.dst} after the destination, which cannot see it`];
  const attention = (far ? example.start[1] : example.attn[at]) / PER;
  const part = far ? example.start[2] : example.part[at];
  const lines = [token, position === example.dst ? 'the destination itself, distance 0' : `distance ${example.dst - position}`,
    `attention ${small(attention)}`];
  const sink = far || example.sinks.includes(position);
  const listed = example.sources.find((source) => source[0] === position);
  if (sink) lines.push('sink: left out of share and multiple');
  else {
    const share = listed ? listed[4] : example.mass > 0 ? attention / example.mass : null;
    const known = example.mass >= 0.1 && example.allowed >= 8;
    lines.push(`share ${fmt(share)} (sink removed)`);
    lines.push(`multiple ${fmt(listed ? listed[5] : known ? share * example.allowed : null)} × even spread`);
  }
  lines.push(`contribution ${part === null ? NONE : small(part / PER)} of the row`);
  return lines;
}

function tokenSpan(example, position, focusable) {
  const far = position === 0 && example.first > 0;
  const at = position - example.first;
  const part = far ? example.start[2] : example.part[at];
  const sink = far || example.sinks.includes(position);
  const after = position > example.dst;
  const kind = ['tok', sink && 'sunk', after && 'after', position === example.dst && 'dst'].filter(Boolean).join(' ');
  return h('span', { class: kind, tabindex: focusable ? 0 : -1, role: 'listitem', 'data-tip': position,
    '--p': after || sink || !part ? null : strength(part / PER),
    'aria-label': tokenLines(example, position).join(', ') }, far ? example.start[0] : example.tokens[at]);
}

function exampleRow(example) {
  const line = h('div', { class: 'tokens', role: 'list', 'aria-label': `Example of document ${example.doc}` });
  if (example.first > 0) line.append(tokenSpan(example, 0, false), h('span', { class: 'gap', 'aria-hidden': 'true' }, ' … '));
  example.tokens.forEach((_, at) => {
    line.append(tokenSpan(example, example.first + at, example.first + at === example.dst), h('wbr'));
  });
  const spans = [...line.querySelectorAll('.tok')];
  line.addEventListener('keydown', (event) => {
    const at = spans.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    rove(spans, at, to);
  });
  tipFor(line, (span) => tokenLines(example, Number(span.dataset.tip)));
  const [sink, self, entropy, activity, quantile, weight, dla, dlogp, kl] = example.numbers;
  const facts = [['destination', `${example.tokens[example.dst - example.first]} at ${example.dst}`], ['next token', example.next ?? 'none'],
    ['sink', fmt(sink)], ['entropy', fmt(entropy)], ['activity', `${fmt(activity)} (quantile ${fmt(quantile, 2)})`],
    ['effect on next token', `${signed(dla)} logits`], ['log p(next) lost by ablation', `${signed(dlogp)} nats`], ['KL', `${fmt(kl)} nats`]];
  if (self !== null) facts.splice(3, 0, ['itself', fmt(self)]);
  if (example.far >= 0.005) facts.push(['further back', `${percent(example.far)} of the contribution`]);
  if (example.tier) facts.push(['contrast tier', example.tier]);
  if (weight !== null && weight !== 1) facts.push(['weight', fmt(weight)]);
  if (example.flags.length) facts.push(['flags', example.flags.map(words).join(', ')]);
  facts.push(['document', `${example.doc}, window ${example.window}`]);
  return h('article', { class: 'example' }, line,
    h('div', { class: 'facts' }, facts.map(([name, value]) => h('span', {}, h('i', {}, name), ' ', value))),
    h('details', { class: 'more' }, h('summary', {}, 'sources and what was written'), sourcesTable(example), readouts(example)),
    wordsDetails(example));
}

function sourcesTable(example) {
  if (!example.sources.length) return h('p', { class: 'hint' }, 'No source has a share of at least 0.05.');
  const head = ['source', 'distance', 'attention', 'share', 'multiple', 'contribution', 'position lift', 'column lift', 'what it is', 'around'];
  const rows = example.sources.map((source) => {
    const [, token, distance, attn, share, multiple, part, position, column, flags, around] = source;
    return [mono(token), fmt(distance), fmt(attn), fmt(share), fmt(multiple), fmt(part), fmt(position), fmt(column),
      flags.join(', '), mono(around.join(''))];
  });
  return table(head, rows, [1, 2, 3, 4, 5, 6, 7]);
}

function readouts(example) {
  return h('div', { class: 'lists' }, ...[['ov_up', 'top source promotes'], ['ov_down', 'top source suppresses'],
    ['write_up', 'whole head promotes'], ['write_down', 'whole head suppresses']]
    .filter(([name]) => example[name].length).map(([name, title]) => valueList(title, example[name])));
}
