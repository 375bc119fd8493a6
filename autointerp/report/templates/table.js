// The table of units: sort by any column, filter, search. Rows are made by the page's own part.
const sorting = { column: TABLE[0][0], up: true };
let shown = UNITS;

function shownUnits() { return shown; }

function buildTable() {
  const head = h('tr', {}, TABLE.map(([name, text, kind]) => h('th', { scope: 'col', class: `${kind === 'n' ? 'n' : ''} ${EXTRA.has(name) ? 'extra' : ''}`, 'data-column': name },
    h('button', { type: 'button', onclick: () => sortBy(name) }, text))));
  $('table').prepend(h('colgroup', {}, TABLE.map(([name]) => h('col', { class: `${WIDTHS[name] || ''} ${EXTRA.has(name) ? 'extra' : ''}` }))));
  $('table').querySelector('thead').append(head);
  startRows();
  const body = $('table').querySelector('tbody');
  body.addEventListener('click', (event) => {
    const row = event.target.closest('tr[data-unit]');
    if (row && !getSelection().toString()) openCard(row.dataset.unit);
  });
  body.addEventListener('keydown', tableKey);
  fillFilters();
  updateTable();
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
    for (const item of UNITS) counts.set(item[name] ?? '', (counts.get(item[name] ?? '') || 0) + 1);
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

const COLLATOR = new Intl.Collator('en');
function compare(a, b) {
  const { column, up } = sorting;
  if (column === TABLE[0][0]) return byUnit(a, b, up);
  const [x, y] = [a[column] ?? '', b[column] ?? ''];
  if (x === '' || y === '') return x === y ? a.i - b.i : x === '' ? 1 : -1; // no value goes last either way
  const order = column === 'verdict' ? D.verdicts.indexOf(x) - D.verdicts.indexOf(y)
    : typeof x === 'number' ? x - y : COLLATOR.compare(String(x), String(y));
  return (up ? order : -order) || a.i - b.i;
}

function searchFor(text) {
  $('search').value = text;
  updateTable();
  $('search').scrollIntoView({ block: 'center' });
}

function updateTable() {
  const terms = $('search').value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = Object.entries(FILTERS).map(([name, id]) => [name, $(id).value]).filter(([, value]) => value !== '*');
  shown = UNITS.filter((item) => wanted.every(([name, value]) => String(item[name] ?? '') === value)
    && terms.every((term) => matches(item, term))).sort(compare);
  showRows();
  $('table-count').textContent = `${fmt(shown.length)} of ${fmt(UNITS.length)} ${NOUN.many}. Enter opens the card of a row.`;
  for (const cell of $('table').querySelectorAll('th[data-column]')) {
    const on = cell.dataset.column === sorting.column;
    cell.setAttribute('aria-sort', on ? (sorting.up ? 'ascending' : 'descending') : 'none');
  }
  if (cells.size) dimMap();
}
