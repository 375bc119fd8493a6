// A unit's card, made when it is opened from its island.
const dialog = $('card');
let returnTo = null;
let opening = 0;

async function readCard(unit) {
  const island = islandOf(unit);
  if (document.readyState === 'loading' && !$(island)?.nextSibling) { // the cards come after this script
    await new Promise((resolve) => { document.addEventListener('DOMContentLoaded', resolve, { once: true }); });
  }
  const node = $(island);
  if (!node) throw new Error(`no card for this ${NOUN.one} on the page; it is in ${NOUN.file}`);
  const found = JSON.parse(node.type === 'application/json' ? node.textContent : await inflated(node.textContent.trim()));
  return D.group > 1 ? found[unit] : found;
}

async function inflated(text) {
  if (typeof DecompressionStream === 'undefined') throw new Error(`this browser is too old to unpack it; the data is in ${NOUN.file}`);
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Response(stream).text();
}

async function openCard(unit) {
  const item = BY_UNIT.get(unit);
  if (!item) return;
  hideTip();
  const turn = (opening += 1);
  if (!dialog.open) returnTo = document.activeElement;
  let content;
  try { content = cardContent(hasCard(item) ? await readCard(unit) : null, item); } catch (error) {
    content = [cardBar(item), h('p', { class: 'note' }, `The card of ${unit} cannot be shown: ${error.message}.`)];
  }
  if (turn !== opening) return;
  $('card-body').replaceChildren(...content);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  dialog.querySelector('.close').focus({ preventScroll: true });
  if (location.hash !== `#${unit}`) history.replaceState(null, '', `#${unit}`);
}

function closeCard() { if (dialog.open) dialog.close(); }
dialog.addEventListener('close', () => {
  hideTip();
  opening += 1;
  if (BY_UNIT.has(location.hash.slice(1))) history.replaceState(null, '', location.pathname + location.search);
  if (returnTo && returnTo.isConnected) returnTo.focus({ preventScroll: true });
});
dialog.addEventListener('click', (event) => { if (event.target === dialog) closeCard(); });

function neighbour(item, step) {
  const list = shown.includes(item) ? shown : UNITS;
  let at = list.indexOf(item) + step;
  while (list[at] && !hasCard(list[at])) at += step;
  return list[at];
}

function cardBar(item) {
  const step = (to, text, sign) => h('button', { type: 'button', disabled: !to, 'aria-label': to ? `${text} ${NOUN.one}, ${to.unit}` : `no ${text} ${NOUN.one}`,
    onclick: () => openCard(to.unit) }, sign);
  return h('div', { class: 'card-bar' }, h('h2', { id: 'card-title' }, item.unit), item.verdict ? badge(item.verdict) : null,
    item.labels.length ? item.labels.map(tag) : item.label ? tag(item.label) : null, item.status === 'described' ? null : h('span', { class: 'tag bad' }, item.status),
    h('span', { class: 'push' }), step(neighbour(item, -1), 'previous', '←'), step(neighbour(item, 1), 'next', '→'),
    h('button', { type: 'button', class: 'close', 'aria-label': 'Close the card', onclick: closeCard }, 'Close'));
}

function section(title, hint, ...children) {
  return h('section', {}, h('h3', {}, title, hint ? h('span', { class: 'hint' }, ` ${hint}`) : null), children);
}
function mono(text) { return h('span', { class: 'mono' }, text); }
function table(head, rows, numeric = []) {
  const align = (i) => (numeric.includes(i) ? 'n' : null);
  return h('div', { class: 'scroll' }, h('table', { class: 'plain' },
    h('thead', {}, h('tr', {}, head.map((text, i) => h('th', { scope: 'col', class: align(i) }, text)))),
    h('tbody', {}, rows.map((row) => h('tr', {}, row.map((cell, i) => h('td', { class: align(i) }, cell)))))));
}
function valueList(title, values) {
  return h('div', {}, h('h4', {}, title), h('ol', { class: 'values' },
    values.map(([token, value]) => h('li', {}, mono(token), h('span', { class: 'n' }, value === null ? NONE : `${value > 0 ? '+' : ''}${value.toFixed(2)}`)))));
}

function saidSection(card) {
  const said = card.said;
  if (!said) return section('Description', '', h('p', { class: 'soft' }, 'There is no description: the step failed, see above.'));
  const rows = SAID.map(([name, key]) => [name, said[key]]);
  const tokens = [['raises', said.raises], ['lowers', said.lowers]].filter(([, list]) => list && list.length);
  return section('Description', `by ${card.made.explainer}${card.made.model ? `, ${card.made.model}` : ''}`,
    h('p', { class: 'lead' }, said.summary || NONE),
    h('dl', {}, rows.filter(([, text]) => text).map(([name, text]) => [h('dt', {}, name), h('dd', {}, text)]),
      said.predicate ? [h('dt', {}, 'predicate'), h('dd', {}, h('code', {}, said.predicate))] : null,
      tokens.map(([name, list]) => [h('dt', {}, name), h('dd', { class: 'mono' }, list.map((token) => JSON.stringify(token)).join('  '))]),
      h('dt', {}, 'claim about'), h('dd', {}, said.domain === 'repeats' ? 'repeated random tokens' : said.domain),
      h('dt', {}, 'confidence'), h('dd', {}, `${fmt(said.confidence, 2)}, stated by the explainer`)));
}

function verdictSection(card) {
  const judged = card.judged;
  const main = card.scores.find((score) => score.main);
  const parts = [h('p', { class: 'lead' }, judged.reason.startsWith(judged.verdict) ? null : [badge(judged.verdict), ' '], judged.reason)];
  if (judged.score !== null) {
    parts.push(scoreBar(judged, main), h('p', { class: 'hint' }, `${judged.metric} on held-out ${judged.domain}: ${fmt(judged.score)} `
      + `${interval(judged.score_low, judged.score_high)}, chance ${fmt(judged.chance)}, ${fmt(judged.n_items)} items of ${fmt(judged.n_docs)} documents`
      + `${main && main.state ? `, ${main.state}` : ''}`));
  }
  const rows = [['margin', marginText(card)]];
  if (judged.coverage !== null) rows.push(['coverage', `${percent(judged.coverage)} of the ${NOUN.mass}; unexplained ${percent(1 - judged.coverage)}`]);
  parts.push(h('dl', {}, rows.map(([name, text]) => [h('dt', {}, name), h('dd', {}, text)])));
  if (main && main.controls.length) parts.push(controlsTable(main));
  return section('Verdict', 'on text it was not made from', ...parts);
}

function ruleOf(card) {
  const main = card.scores.find((score) => score.main);
  return main ? main.controls.filter((control) => control.same_rule).map((control) => words(control.name)).join(', ') : '';
}
function marginText(card) {
  const judged = card.judged;
  if (card.group === 'rests on the first token') return 'rests on the first token: not part of the mean margin';
  const value = judged.margin === null ? 'none' : `${signed(judged.margin)} ${interval(judged.margin_low, judged.margin_high)} against ${judged.compared_with}`;
  return card.group === 'equals a rule' ? `= ${ruleOf(card)}: no rival margin; ${value}` : value;
}

function controlsTable(score) {
  const rows = score.controls.map((control) => [h('span', { title: control.detail || null }, words(control.name)), control.kind, fmt(control.value),
    control.same_rule ? '' : `${signed(control.difference)} ${interval(control.low, control.high)}`,
    control.same_rule ? h('b', {}, `= ${words(control.name)}`) : control.beaten ? '✓ beaten' : h('b', { class: 'bad' }, '✗ not beaten')]);
  return table(['control', 'kind', 'its value', 'score minus it', ''], rows, [2, 3]);
}

// Value with interval on [0, 1] (from -1 where something is negative), the chance line and a tick a control.
function scoreBar(judged, main) {
  const controls = main ? main.controls : [];
  const least = Math.min(0, judged.score_low ?? judged.score, judged.chance ?? 0, ...controls.map((control) => control.value ?? 0));
  const low = least < 0 ? -1 : 0;
  const x = (value) => 8 + (404 * (Math.max(low, Math.min(1, value)) - low)) / (1 - low);
  const parts = [svg('line', { x1: x(low), x2: x(1), y1: 22, y2: 22, class: 'track' })];
  for (const at of low ? [-1, 0, 1] : [0, 0.25, 0.5, 0.75, 1]) {
    parts.push(svg('line', { x1: x(at), x2: x(at), y1: 30, y2: 34, class: 'axis' }), svg('text', { x: x(at), y: 46, class: 'num' }, String(at)));
  }
  for (const control of controls) {
    if (control.value === null) continue;
    const name = `${words(control.name)} ${fmt(control.value)}`;
    parts.push(control.kind === 'rival'
      ? svg('path', { d: `M${x(control.value)} 17l5 5l-5 5l-5 -5z`, class: 'rival' }, svg('title', {}, name))
      : svg('circle', { cx: x(control.value), cy: 22, r: 4, class: 'null' }, svg('title', {}, name)));
  }
  if (judged.chance !== null) parts.push(svg('line', { x1: x(judged.chance), x2: x(judged.chance), y1: 8, y2: 30, class: 'chance' }),
    svg('text', { x: x(judged.chance), y: 6, class: 'num' }, 'chance'));
  if (judged.score_low !== null && judged.score_high !== null) {
    parts.push(svg('rect', { x: x(judged.score_low), y: 17, width: Math.max(2, x(judged.score_high) - x(judged.score_low)), height: 10, rx: 3, class: 'span' }));
  }
  parts.push(svg('line', { x1: x(judged.score), x2: x(judged.score), y1: 12, y2: 32, class: 'at' }));
  const text = `${judged.metric} ${fmt(judged.score)} ${interval(judged.score_low, judged.score_high)}, chance ${fmt(judged.chance)}`;
  return h('figure', { class: 'score' }, svg('svg', { viewBox: '0 -4 420 54', role: 'img', 'aria-label': text }, parts),
    h('figcaption', { class: 'legend small' }, h('span', { class: 'key at' }), 'score with 95 % interval', h('span', { class: 'key null' }), 'null', h('span', { class: 'key rival' }), 'rival'));
}
