// The table of neurons or latents: only the rows in view are in the document, whatever their number.
const TABLE = [
  ['unit', 'unit', 'text'], ['label', 'label', 'text'], ['verdict', 'verdict', 'text'], ['score', 'score', 'n'],
  ['margin', 'margin', 'n'], ['compared_with', 'against', 'text'], ['coverage', 'coverage', 'n'],
  ['density', 'density', 'n'], ['maximum', 'largest', 'n'], ['ablation_loss', 'loss rise', 'n'],
  ['summary', 'description', 'text'],
];
const FILTERS = { verdict: 'filter-verdict', label: 'filter-label', layer: 'filter-layer', status: 'filter-status' };
const EXTRA = new Set(['compared_with', 'coverage', 'maximum', 'ablation_loss']); // left out on narrow screens
const WIDTHS = { unit: 'medium', label: 'wide', compared_with: 'wide', verdict: 'medium', score: 'medium', summary: 'rest' };
const ROW_SAYS = { dead: 'never above 0', dense: 'active in more than half of the positions', 'not described': '' };
const ROW = 46; // pixels, fixed, so that a place in the list is a place on the scroll bar
const AROUND = 10; // rows drawn beyond what is in view
const OFF = new Set(['dead', 'dense']);
const view = { from: -1, to: -1, at: 0, waiting: false };
const panel = $('table-panel');

// A term is words of a row, or units from one to another: L3N10-L3N27.
const RANGE = /^l(\d+)[nf](\d+)-(?:l(\d+))?[nf]?(\d+)$/;
function matches(item, term) {
  const range = RANGE.exec(term);
  if (range) {
    const [from, to] = [[+range[1], +range[2]], [+(range[3] ?? range[1]), +range[4]]];
    const after = item.layer - from[0] || item.index - from[1];
    return after >= 0 && (item.layer - to[0] || item.index - to[1]) <= 0;
  }
  item.text ??= searchText(item);
  return item.text.includes(term);
}
// By name, those with a card before the others whichever way.
function byUnit(a, b, up) {
  return (a.k === undefined) - (b.k === undefined) || (up ? 1 : -1) * (a.i - b.i);
}

function startRows() {
  panel.style.setProperty('--row', `${ROW}px`);
  panel.addEventListener('scroll', () => {
    if (view.waiting) return;
    view.waiting = true;
    requestAnimationFrame(() => { view.waiting = false; drawRows(false); });
  }, { passive: true });
  new ResizeObserver(() => drawRows(false)).observe(panel);
}

function showRows() {
  view.at = 0;
  panel.scrollTop = 0;
  $('table').setAttribute('aria-rowcount', shown.length + 1);
  drawRows(true);
}

function drawRows(anew) {
  const first = Math.floor(panel.scrollTop / ROW);
  const from = Math.max(0, first - AROUND);
  const to = Math.min(shown.length, first + Math.ceil(panel.clientHeight / ROW) + AROUND);
  if (!anew && from === view.from && to === view.to) return;
  Object.assign(view, { from, to });
  const body = $('table').querySelector('tbody');
  const focused = body.contains(document.activeElement);
  const rows = shown.slice(from, to).map((item, k) => tableRow(item, from + k));
  body.replaceChildren(...[pad(from), ...rows, pad(shown.length - to)].filter(Boolean));
  const stop = rows[view.at - from] || rows[0];
  if (stop) stop.tabIndex = 0;
  if (focused) (rows[view.at - from] || panel).focus({ preventScroll: true });
}

function pad(count) {
  return count > 0 ? h('tr', { class: 'pad', 'aria-hidden': 'true', '--tall': `${count * ROW}px` }, h('td', { colspan: TABLE.length })) : null;
}

function tableRow(item, place) {
  const kind = OFF.has(item.state) ? 'off' : item.k === undefined ? 'quiet' : null;
  const row = h('tr', { tabindex: -1, class: kind, 'data-unit': item.unit, 'data-place': place, 'aria-rowindex': place + 2 });
  row.append(h('th', { scope: 'row' }, item.unit));
  row.append(h('td', {}, item.status === 'failed' ? h('span', { class: 'tag bad' }, 'failed')
    : item.label ? tag(item.label) : h('span', { class: 'tag state' }, item.status)));
  row.append(h('td', {}, item.verdict ? badge(item.verdict) : ''));
  row.append(item.score === undefined ? h('td', { class: 'n' }) : scoreCell(item));
  row.append(h('td', { class: 'n' }, item.margin === undefined ? '' : signed(item.margin)));
  row.append(h('td', { class: 'soft extra' }, h('div', { class: 'two' }, againstText(item))));
  for (const name of ['coverage', 'density', 'maximum', 'ablation_loss']) {
    row.append(h('td', { class: EXTRA.has(name) ? 'n extra' : 'n' }, item[name] === undefined ? '' : fmt(item[name], name === 'coverage' ? 2 : 3)));
  }
  row.append(h('td', {}, h('div', { class: 'two', title: item.summary || null }, item.summary || h('span', { class: 'soft' }, ROW_SAYS[item.status] || item.status))));
  return row;
}

function tableKey(event) {
  const row = event.target.closest('tr[data-unit]');
  if (!row) return;
  if (event.key === 'Enter') { event.preventDefault(); openCard(row.dataset.unit); return; }
  const at = Number(row.dataset.place);
  const page = Math.max(1, Math.floor(panel.clientHeight / ROW) - 2);
  const last = shown.length - 1;
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: last, PageDown: Math.min(last, at + page), PageUp: Math.max(0, at - page) }[event.key];
  if (to === undefined || to < 0 || to > last) return;
  event.preventDefault();
  view.at = to;
  const head = $('table').tHead.offsetHeight;
  if (to * ROW < panel.scrollTop) panel.scrollTop = to * ROW;
  else if ((to + 1) * ROW + head > panel.scrollTop + panel.clientHeight) panel.scrollTop = (to + 1) * ROW + head - panel.clientHeight;
  drawRows(true);
  const next = panel.querySelector(`tr[data-place="${to}"]`);
  if (next) rove([row, next], 0, 1);
}
