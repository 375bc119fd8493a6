// Examples of a neuron or latent: a row of tokens shaded by their activation, with numbers on hover and on focus.
const STRATA = {
  top: 'Where it is strongest', quantile: 'Across its range', random: 'Positions drawn at random', contrast: 'Where it rests, though much is the same',
};
const FIRST = 6; // examples of a stratum that stand unfolded
const TIERS = { token: 'same token, at rest', neighbour: 'where the most alike units are active, this one at rest' };

function examplesSection(card) {
  const parts = [];
  for (const [stratum, title] of Object.entries(STRATA)) {
    const rows = card.examples.filter((example) => example.stratum === stratum);
    if (!rows.length) continue;
    parts.push(h('details', { open: stratum === 'top', class: 'stratum' },
      h('summary', {}, `${title} `, h('span', { class: 'count' }, `${stratum} · ${rows.length}`)), exampleRows(rows, card)));
  }
  if (!parts.length && !card.omitted) parts.push(h('p', { class: 'hint' }, `No examples were kept for this ${NOUN.one}.`));
  if (card.omitted) {
    parts.push(h('p', { class: 'hint' }, `${card.omitted} more examples of this ${NOUN.one} are in ${NOUN.file}; the page keeps fewer to stay small.`));
  }
  if (card.examples.length) {
    parts.push(h('div', { class: 'legend small' }, h('span', {}, 'activation / reference'),
      [0.02, 0.1, 0.3, 0.6, 1].map((part) => h('span', { class: 'tok key-part', '--p': strength(part) }, String(part))), h('span', { class: 'swatch framed' }), h('span', {}, 'the position (dst)'),
      h('span', { class: 'hint' }, 'Hover, or tab to a row and use the arrow keys.')));
  }
  return section('Examples', 'from the explain split', ...parts);
}

function exampleRows(rows, card) {
  const made = rows.map((example) => exampleRow(example, card));
  if (made.length <= FIRST + 1) return made;
  return [made.slice(0, FIRST), h('details', { class: 'more' }, h('summary', {}, `${made.length - FIRST} more`), made.slice(FIRST))];
}

// Weak activations must still show: colour grows with the 0.6th power, and the legend's swatches use the same function.
function strength(part) { return `${Math.round(100 * clamp(part) ** 0.6)}%`; }

function tokenLines(example, at, card) {
  const share = example.share[at];
  const position = example.first + at;
  const lines = [example.tokens[at], position === example.dst ? 'the position itself (dst)' : position < example.dst ? `${example.dst - position} before it` : `${position - example.dst} after it`];
  if (share === null) return [...lines, 'not measured here'];
  const state = share >= 30 ? 'active' : share <= 2 ? 'at rest' : 'between active and at rest';
  return [...lines, `activation ${fmt(card.reference === null ? null : (card.reference * share) / 100)}`, `${share} % of the reference: ${state}`];
}

function exampleRow(example, card) {
  const line = h('div', { class: 'tokens', role: 'list', 'aria-label': `Example of document ${example.doc}` });
  if (example.first > 0) line.append(h('span', { class: 'gap', 'aria-hidden': 'true' }, '… '));
  const spans = example.tokens.map((token, at) => {
    const share = example.share[at];
    const dst = example.first + at === example.dst;
    return h('span', { class: dst ? 'tok dst' : 'tok', tabindex: dst ? 0 : -1, role: 'listitem', 'data-tip': at, '--p': share > 0 ? strength(share / 100) : null,
      'aria-label': tokenLines(example, at, card).join(', ') }, token);
  });
  for (const span of spans) line.append(span, h('wbr'));
  line.addEventListener('keydown', (event) => {
    const at = spans.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    rove(spans, at, to);
  });
  tipFor(line, (span) => tokenLines(example, Number(span.dataset.tip), card));
  const [activation, quantile, weight, dlogp, kl] = example.numbers;
  const facts = [['activation', `${fmt(activation)}${quantile === null ? '' : ` (quantile ${fmt(quantile, 2)})`}`], ['next token', example.next ?? 'none']];
  if (dlogp !== null) facts.push(['log p(next) lost without it', `${signed(dlogp)} nats`]);
  if (kl !== null) facts.push(['KL', `${fmt(kl)} nats`]);
  if (example.tier) facts.push(['contrast', TIERS[example.tier] || example.tier]);
  if (weight !== null && weight !== 1) facts.push(['weight', fmt(weight)]);
  facts.push(['document', `${example.doc}, window ${example.window}`]);
  const lists = [['without it, tokens that fall', example.lowered], ['without it, tokens that rise', example.raised]].filter(([, values]) => values.length);
  return h('article', { class: 'example' }, line,
    h('div', { class: 'facts' }, facts.map(([name, value]) => h('span', {}, h('i', {}, name), ' ', value))),
    lists.length ? h('details', { class: 'more' }, h('summary', {}, 'what changes without it'), h('div', { class: 'lists' }, lists.map(([title, values]) => valueList(title, values)))) : null);
}
