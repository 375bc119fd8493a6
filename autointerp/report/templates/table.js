// The table of heads: sort by any column, filter, search; rows are made once and moved.
const TABLE = [
  ['head', 'head', 'text'], ['label', 'label', 'text'], ['verdict', 'verdict', 'text'], ['score', 'score', 'n'],
  ['margin', 'margin', 'n'], ['compared_with', 'against', 'text'], ['coverage', 'coverage', 'n'],
  ['sink_mass', 'sink', 'n'], ['mean_distance', 'distance', 'n'], ['ablation_loss', 'loss rise', 'n'],
  ['summary', 'description', 'text'],
];
const FILTERS = { verdict: 'filter-verdict', label: 'filter-label', layer: 'filter-layer', status: 'filter-status' };
const EXTRA = new Set(['compared_with', 'sink_mass', 'mean_distance', 'ablation_loss']); // left out on narrow screens
const rowsByHead = new Map();
const sorting = { column: 'head', up: true };
let shown = HEADS;

function shownHeads() { return shown; }

function buildTable() {
  const head = h('tr', {}, TABLE.map(([name, text, kind]) => h('th', { scope: 'col', class: `${kind === 'n' ? 'n' : ''} ${EXTRA.has(name) ? 'extra' : ''}`, 'data-column': name },
    h('button', { type: 'button', onclick: () => sortBy(name) }, text))));
  const width = { head: 'narrow', label: 'wide', compared_with: 'wide', verdict: 'medium', score: 'medium', summary: 'rest', sink_mass: 'narrow' };
  $('table').prepend(h('colgroup', {}, TABLE.map(([name]) => h('col', { class: `${width[name] || ''} ${EXTRA.has(name) ? 'extra' : ''}` }))));
  $('table').querySelector('thead').append(head);
  for (const item of HEADS) rowsByHead.set(item.head, tableRow(item));
  const body = $('table').querySelector('tbody');
  body.addEventListener('click', (event) => {
    const row = event.target.closest('tr');
    if (row && !getSelection().toString()) openCard(row.dataset.head);
  });
  body.addEventListener('keydown', tableKey);
  fillFilters();
  updateTable();
}

function tableRow(item) {
  const row = h('tr', { tabindex: -1, 'data-head': item.head });
  row.append(h('th', { scope: 'row' }, item.head));
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

function againstText(item) {
  if (item.group === 'equals a rule') return item.compared_with ? `= a rule · ${item.compared_with}` : '= a positional rule';
  if (item.group === 'rests on the first token') return 'rests on the first token';
  return item.compared_with || '';
}

function scoreCell(item) {
  const cell = h('td', { class: 'n' }, fmt(item.score, 2));
  if (item.score === null) return cell;
  cell.append(h('span', { class: 'mini', 'aria-hidden': 'true', '--low': `${100 * clamp(item.score_low ?? item.score)}%`,
    '--high': `${100 * clamp(item.score_high ?? item.score)}%`, '--at': `${100 * clamp(item.score)}%` }));
  cell.title = `${item.metric} ${interval(item.score_low, item.score_high)}, chance ${fmt(item.chance)}`;
  return cell;
}

function fillFilters() {
  for (const [name, id] of Object.entries(FILTERS)) {
    const counts = new Map();
    for (const item of HEADS) counts.set(item[name] ?? '', (counts.get(item[name] ?? '') || 0) + 1);
    const keys = [...counts.keys()].sort((a, b) => (name === 'layer' ? a - b : String(a).localeCompare(String(b))));
    $(id).append(h('option', { value: '*' }, 'all'),
      ...keys.map((key) => h('option', { value: String(key) }, `${words(key) || 'none'} (${counts.get(key)})`)));
    $(id).addEventListener('change', updateTable);
  }
  let wait = 0;
  $('search').addEventListener('input', () => { clearTimeout(wait); wait = setTimeout(updateTable, 60); });
  $('clear').addEventListener('click', () => {
    $('search').value = '';
    for (const id of Object.values(FILTERS)) $(id).value = '*';
    updateTable();
  });
}

function sortBy(column) {
  const text = TABLE.find(([name]) => name === column)[2] === 'text';
  sorting.up = sorting.column === column ? !sorting.up : text;
  sorting.column = column;
  updateTable();
}

function compare(a, b) {
  const { column, up } = sorting;
  if (column === 'head') return (up ? 1 : -1) * (a.i - b.i);
  const [x, y] = [a[column] ?? '', b[column] ?? ''];
  if (x === '' || y === '') return x === y ? a.i - b.i : x === '' ? 1 : -1; // no value goes last either way
  const order = column === 'verdict' ? D.verdicts.indexOf(x) - D.verdicts.indexOf(y)
    : typeof x === 'number' ? x - y : String(x).localeCompare(String(y));
  return (up ? order : -order) || a.i - b.i;
}

function updateTable() {
  const terms = $('search').value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = Object.entries(FILTERS).map(([name, id]) => [name, $(id).value]).filter(([, value]) => value !== '*');
  shown = HEADS.filter((item) => wanted.every(([name, value]) => String(item[name] ?? '') === value)
    && terms.every((term) => item.text.includes(term))).sort(compare);
  const rows = shown.map((item) => rowsByHead.get(item.head));
  rows.forEach((row, i) => { row.tabIndex = i ? -1 : 0; });
  $('table-panel').style.setProperty('--tall', `${50 * rows.length + 40}px`);
  $('table').querySelector('tbody').replaceChildren(...rows);
  $('table-count').textContent = `${shown.length} of ${HEADS.length} heads. Enter opens the card of a row.`;
  for (const cell of $('table').querySelectorAll('th[data-column]')) {
    const on = cell.dataset.column === sorting.column;
    cell.setAttribute('aria-sort', on ? (sorting.up ? 'ascending' : 'descending') : 'none');
  }
  if (cells.size) dimMap();
}

function tableKey(event) {
  const row = event.target.closest('tr');
  if (!row) return;
  if (event.key === 'Enter') { event.preventDefault(); openCard(row.dataset.head); return; }
  const rows = [...row.parentNode.children];
  const at = rows.indexOf(row);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1, PageDown: Math.min(rows.length - 1, at + 15),
    PageUp: Math.max(0, at - 15) }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  rove(rows, at, to);
}
