// Layer by head, one cell a head, coloured by a column of choice.
const UNIT = 'unit', SIGNED = 'signed', CATEGORY = 'category';
const MAPS = [
  ['score', 'score', UNIT], ['margin', 'margin', SIGNED], ['label', 'label', CATEGORY],
  ['verdict', 'verdict', CATEGORY], ['coverage', 'coverage', UNIT], ['sink_mass', 'attention on the sink', UNIT],
  ['entropy', 'entropy / ln n', UNIT], ['mean_distance', 'mean distance (tokens)', 'positive'],
  ['ablation_loss', 'loss rise when ablated (nats/token)', SIGNED],
  ...['previous_token', 'current_token', 'first_token', 'duplicate_token', 'induction']
    .map((name) => [name, `${words(name)}, on repeats`, UNIT]),
  ...D.readings.map(([name, data]) => [`${name}/${data}`, `${words(name)}, on ${data}`, 'free']),
];
const cells = new Map();
let mapOrder = [];

function buildMap() {
  const layers = [...new Set(HEADS.map((item) => item.layer))].sort((a, b) => a - b);
  const width = Math.max(0, ...HEADS.map((item) => item.index)) + 1;
  const grid = $('map-grid');
  grid.style.setProperty('--heads', width);
  const fit = (room, count) => Math.max(20, Math.min(46, Math.floor(room / Math.max(1, count)) - 2));
  grid.style.setProperty('--cell', `${fit(1220, width)}px`);
  grid.style.setProperty('--tall', `${Math.min(fit(760, layers.length), fit(1220, width))}px`);
  const top = h('div', { role: 'row', class: 'map-row' }, h('span', { role: 'columnheader', class: 'corner' }, ''),
    Array.from({ length: width }, (_, i) => h('span', { role: 'columnheader', class: 'axis-x' }, String(i))));
  grid.append(top);
  for (const layer of layers) {
    const row = h('div', { role: 'row', class: 'map-row' }, h('span', { role: 'rowheader', class: 'axis-y' }, `L${layer}`));
    for (let index = 0; index < width; index += 1) {
      const item = BY_HEAD.get(`L${layer}H${index}`);
      const cell = h('div', { role: 'gridcell', class: item ? 'cell' : 'cell absent', tabindex: item ? -1 : null,
        'data-tip': item ? item.head : null });
      if (item) cells.set(item.head, cell);
      row.append(cell);
    }
    grid.append(row);
  }
  mapOrder = HEADS.map((item) => cells.get(item.head));
  if (mapOrder.length) mapOrder[0].tabIndex = 0;
  grid.addEventListener('click', (event) => {
    const cell = event.target.closest('[data-tip]');
    if (cell) openCard(cell.dataset.tip);
  });
  grid.addEventListener('keydown', mapKey);
  tipFor(grid, (cell) => mapTip(BY_HEAD.get(cell.dataset.tip)));
  const select = $('map-column');
  const used = MAPS.filter(([name]) => HEADS.some((item) => item[name] !== null && item[name] !== undefined));
  select.append(...used.map(([name, text]) => h('option', { value: name }, text)));
  if (used.some(([name]) => name === 'verdict') && !used.some(([name]) => name === 'score')) select.value = 'label';
  select.addEventListener('change', paintMap);
  paintMap();
}

function mapKey(event) {
  const cell = event.target.closest('.cell');
  const item = cell && BY_HEAD.get(cell.dataset.tip);
  if (!item) return;
  if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); openCard(item.head); return; }
  const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
  const step = steps[event.key];
  let next = null;
  if (step) {
    for (let k = 1; k <= 256 && !next; k += 1) next = cells.get(`L${item.layer + k * step[0]}H${item.index + k * step[1]}`);
  } else if (event.key === 'Home' || event.key === 'End') {
    const row = HEADS.filter((other) => other.layer === item.layer);
    next = cells.get(row[event.key === 'Home' ? 0 : row.length - 1].head);
  }
  if (!next) return;
  event.preventDefault();
  rove([cell, next], 0, 1);
}

function mapTip(item) {
  const [name, text] = MAPS.find(([key]) => key === $('map-column').value);
  const value = item[name];
  const lines = [`${item.head} · ${words(item.label) || item.status} · ${item.verdict}`];
  lines.push(`${text}: ${typeof value === 'number' ? fmt(value) : words(value) || NONE}`);
  if (item.summary) lines.push(item.summary.length > 160 ? `${item.summary.slice(0, 160)}…` : item.summary);
  return lines;
}

function mapRange(name, kind) {
  const values = HEADS.map((item) => item[name]).filter((value) => typeof value === 'number');
  const high = Math.max(0, ...values);
  const low = Math.min(0, ...values);
  if (kind === UNIT) return low < 0 ? [-1, 1] : [0, 1];
  if (kind === SIGNED || (kind === 'free' && low < 0)) {
    const size = Math.max(high, -low) || 1;
    return [-size, size];
  }
  if (kind === 'free' && high <= 1) return [0, 1];
  return [0, high || 1];
}

function paintMap() {
  const [name, text, kind] = MAPS.find(([key]) => key === $('map-column').value) || MAPS[0];
  const range = kind === CATEGORY ? null : mapRange(name, kind);
  for (const item of HEADS) {
    const cell = cells.get(item.head);
    const value = item[name];
    cell.className = 'cell';
    cell.textContent = '';
    cell.setAttribute('aria-label', `${item.head}, ${text} ${typeof value === 'number' ? fmt(value) : words(value) || 'none'}`);
    if (value === null || value === undefined || value === '') cell.classList.add('void');
    else if (name === 'label') { cell.classList.add('code', `f-${family(value)}`); cell.textContent = CODES[value] || '·'; }
    else if (name === 'verdict') { cell.classList.add('code', `v-${value}`); cell.textContent = VERDICT_SIGNS[value]; }
    else {
      cell.classList.add('heat', value < 0 ? 'neg' : 'pos');
      cell.style.setProperty('--p', `${Math.round(100 * clamp(Math.abs(value) / range[1]))}%`);
    }
  }
  paintLegend(name, range);
  dimMap();
}

function paintLegend(name, range) {
  const legend = $('map-legend');
  legend.replaceChildren();
  if (range) {
    const half = range[0] < 0;
    put(legend, {}, [h('span', {}, fmt(range[0])), h('span', { class: `ramp ${half ? 'two' : 'one'}` }),
      h('span', {}, fmt(range[1])), half ? h('span', { class: 'hint' }, 'the middle is 0') : null,
      h('span', { class: 'swatch void' }), h('span', {}, 'no value')]);
    return;
  }
  const counts = new Map();
  for (const item of HEADS) counts.set(item[name] || '', (counts.get(item[name] || '') || 0) + 1);
  const order = name === 'verdict' ? D.verdicts : D.all_labels;
  legend.replaceChildren(...[...order, ''].filter((key) => counts.has(key)).map((key) => h('span', { class: 'entry' },
    h('span', { class: `swatch code ${key ? (name === 'verdict' ? `v-${key}` : `f-${family(key)}`) : 'void'}` },
      name === 'verdict' ? VERDICT_SIGNS[key] || '' : CODES[key] || (key ? '·' : '')),
    `${words(key) || 'no value'} ${counts.get(key)}`)));
}

function dimMap() {
  const shown = new Set(shownHeads().map((item) => item.head));
  for (const [head, cell] of cells) cell.classList.toggle('dim', !shown.has(head));
}
