// The table of heads: rows are made once and moved.
const TABLE = [
  ['head', 'head', 'text'], ['label', 'label', 'text'], ['verdict', 'verdict', 'text'], ['score', 'score', 'n'],
  ['margin', 'margin', 'n'], ['compared_with', 'against', 'text'], ['coverage', 'coverage', 'n'],
  ['sink_mass', 'sink', 'n'], ['mean_distance', 'distance', 'n'], ['ablation_loss', 'loss rise', 'n'],
  ['summary', 'description', 'text'],
];
const FILTERS = { verdict: 'filter-verdict', label: 'filter-label', layer: 'filter-layer', status: 'filter-status' };
const EXTRA = new Set(['compared_with', 'sink_mass', 'mean_distance', 'ablation_loss']); // left out on narrow screens
const WIDTHS = { head: 'narrow', label: 'wide', compared_with: 'wide', verdict: 'medium', score: 'medium', summary: 'rest', sink_mass: 'narrow' };
const rowsByUnit = new Map();
const matches = (item, term) => item.text.includes(term);
const byUnit = (a, b, up) => (up ? 1 : -1) * (a.i - b.i);

function startRows() { for (const item of UNITS) rowsByUnit.set(item.unit, tableRow(item)); }

function showRows() {
  const rows = shown.map((item) => rowsByUnit.get(item.unit));
  rows.forEach((row, i) => { row.tabIndex = i ? -1 : 0; });
  $('table-panel').style.setProperty('--tall', `${50 * rows.length + 40}px`);
  $('table').querySelector('tbody').replaceChildren(...rows);
}

function tableRow(item) {
  const row = h('tr', { tabindex: -1, 'data-unit': item.unit });
  row.append(h('th', { scope: 'row' }, item.unit));
  row.append(h('td', {}, item.status === 'failed' ? h('span', { class: 'tag bad' }, 'failed') : tag(item.label)));
  row.append(h('td', {}, badge(item.verdict)));
  row.append(scoreCell(item));
  row.append(h('td', { class: 'n' }, signed(item.margin)));
  row.append(h('td', { class: 'soft extra' }, againstText(item)));
  for (const name of ['coverage', 'sink_mass', 'mean_distance', 'ablation_loss']) {
    row.append(h('td', { class: EXTRA.has(name) ? 'n extra' : 'n' }, fmt(item[name], name === 'mean_distance' || name === 'ablation_loss' ? 3 : 2)));
  }
  row.append(h('td', { class: 'words' }, item.summary || h('span', { class: 'soft' }, item.status)));
  return row;
}

function tableKey(event) {
  const row = event.target.closest('tr');
  if (!row) return;
  if (event.key === 'Enter') { event.preventDefault(); openCard(row.dataset.unit); return; }
  const rows = [...row.parentNode.children];
  const at = rows.indexOf(row);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1, PageDown: Math.min(rows.length - 1, at + 15),
    PageUp: Math.max(0, at - 15) }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  rove(rows, at, to);
}
