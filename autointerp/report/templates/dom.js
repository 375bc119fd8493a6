// Building blocks. Data from the run reaches the page through text nodes and attributes only, never as markup.
const $ = (id) => document.getElementById(id);
const NONE = '–';

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name.startsWith('--')) node.style.setProperty(name, value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}
const h = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  put(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);

function fmt(value, digits = 3) {
  if (value === null || value === undefined) return NONE;
  if (typeof value !== 'number') return String(value);
  if (Number.isInteger(value)) return value.toLocaleString('en');
  const size = Math.abs(value);
  if (size >= 10 ** Math.min(digits, 3)) return Math.round(value).toLocaleString('en');
  if (size < 0.001) return value.toExponential(1);
  return size >= 1 ? value.toPrecision(digits) : value.toFixed(digits);
}
const signed = (value) => (typeof value === 'number' && value > 0 ? '+' : '') + fmt(value);
const interval = (low, high) => (low === null || high === null ? '' : `[${fmt(low)}, ${fmt(high)}]`);
const percent = (value) => (value === null || value === undefined ? NONE : `${Math.round(100 * value)} %`);
const words = (name) => String(name ?? '').replaceAll('_', ' ');
const clamp = (value) => Math.max(0, Math.min(1, value));

const D = JSON.parse($('index').textContent);
const NOUN = D.nouns;
function searchText(item) {
  return [item.unit, item.label, words(item.label), ...item.labels, item.summary, item.looks_at, item.writes,
    item.predicate, item.verdict, item.status, item.compared_with].join(' ').toLowerCase();
}

// A tooltip that mouse and keyboard share: anything with `tipFor` shows it while hovered or focused.
const tip = $('tip');
let tipTarget = null;
function showTip(target, lines) {
  tipTarget = target;
  const host = target.closest('dialog') || document.body;
  if (tip.parentNode !== host) host.append(tip);
  tip.replaceChildren(...lines.map((line, i) => h('div', { class: i ? '' : 'first' }, line)));
  tip.hidden = false;
  placeTip();
}
function placeTip() {
  const target = tipTarget;
  const box = target.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left), innerWidth - tip.offsetWidth - 8);
  const below = box.bottom + 6 + tip.offsetHeight < innerHeight;
  tip.style.left = `${left}px`;
  tip.style.top = `${below ? box.bottom + 6 : box.top - tip.offsetHeight - 6}px`;
}
function hideTip() { tip.hidden = true; tipTarget = null; }
function moveTip() { // scrolling carries the tip of a focused token along and ends that of a hovered one
  if (tipTarget && tipTarget === document.activeElement) placeTip();
  else hideTip();
}
function tipFor(container, lines) {
  const show = (event) => {
    const target = event.target.closest('[data-tip]');
    if (target && container.contains(target)) showTip(target, lines(target));
    else hideTip();
  };
  container.addEventListener('mouseover', show);
  container.addEventListener('focusin', show);
  container.addEventListener('mouseleave', hideTip);
  container.addEventListener('focusout', hideTip);
}

// Arrow keys among the items of a group of which one at a time is a tab stop.
function rove(items, from, to) {
  if (!items[to]) return;
  if (items[from]) items[from].tabIndex = -1;
  items[to].tabIndex = 0;
  items[to].focus();
}

function badge(verdict) { return h('span', { class: `verdict v-${verdict}` }, verdict); }
function tag(label) { return h('span', { class: `tag f-${family(label)}` }, words(label)); }

const FAMILIES = {
  position: ['previous_token', 'current_token', 'first_token', 'fixed_offset', 'local_context', 'position'],
  repeat: ['duplicate_token', 'induction', 'repetition'],
  class: ['punctuation', 'delimiter_matching', 'token_class', 'token', 'token_set', 'token_pair'],
  output: ['name_mover', 'copying', 'copy_suppression', 'successor', 's_inhibition', 'context'],
};
const CODES = {
  previous_token: 'PR', current_token: 'CU', first_token: '1T', duplicate_token: 'DU', induction: 'IN',
  fixed_offset: 'OF', local_context: 'LO', punctuation: 'PU', delimiter_matching: 'DE', name_mover: 'NM',
  copying: 'CO', copy_suppression: 'CS', successor: 'SU', s_inhibition: 'SI', token_class: 'TC', other: 'OT', token: 'TO',
  token_set: 'TS', token_pair: 'TP', context: 'CX', position: 'PO', repetition: 'RE',
};
const VERDICT_SIGNS = { supported: '✓', partly: '~', refuted: '✗', unscored: '' };
function family(label) {
  return Object.keys(FAMILIES).find((name) => FAMILIES[name].includes(label)) || 'none';
}

const theme = $('theme');
function isDark() {
  const set = document.documentElement.dataset.theme;
  return set ? set === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
}
function nameTheme() { theme.textContent = isDark() ? 'Light' : 'Dark'; }
theme.addEventListener('click', () => {
  document.documentElement.dataset.theme = isDark() ? 'light' : 'dark';
  nameTheme();
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', nameTheme);
nameTheme();
for (const part of document.querySelectorAll('[data-grow]')) part.style.flexGrow = part.dataset.grow;
