// Layer by index, a cell for a unit (or for neighbouring ones), coloured by a column of choice.
const cells = new Map();
const places = new Map();
const placeKey = (layer, column) => places.get(`${layer}/${column}`);
let placeOf = new Map();

function buildMap() {
  const all = mapPlaces();
  for (const place of all) places.set(`${place.layer}/${place.column}`, place);
  placeOf = new Map(all.map((place) => [place.key, place]));
  const layers = [...new Set(all.map((place) => place.layer))].sort((a, b) => a - b);
  const width = all.reduce((most, place) => Math.max(most, place.column), -1) + 1;
  const fine = width > 60;
  const grid = $('map-grid');
  grid.classList.toggle('fine', fine);
  grid.style.setProperty('--heads', width);
  const least = fine ? 6 : 20;
  const fit = (room, count) => Math.max(least, Math.min(46, Math.floor(room / Math.max(1, count)) - (fine ? 1 : 2)));
  grid.style.setProperty('--cell', `${fit(1220, width)}px`);
  grid.style.setProperty('--tall', `${fine ? Math.max(12, Math.min(30, Math.floor(600 / layers.length))) : Math.min(fit(760, layers.length), fit(1220, width))}px`);
  const top = h('div', { role: 'row', class: 'map-row' }, h('span', { role: 'columnheader', class: 'corner' }, ''),
    Array.from({ length: width }, (_, i) => h('span', { role: 'columnheader', class: 'axis-x' }, fine && i % 20 ? '' : String(i * MAP_STEP))));
  grid.append(top);
  for (const layer of layers) {
    const row = h('div', { role: 'row', class: 'map-row' }, h('span', { role: 'rowheader', class: 'axis-y' }, `L${layer}`));
    for (let column = 0; column < width; column += 1) {
      const place = placeKey(layer, column);
      const cell = h('div', { role: 'gridcell', class: place ? 'cell' : 'cell absent', tabindex: place ? -1 : null,
        'data-tip': place ? place.key : null });
      if (place) cells.set(place.key, cell);
      row.append(cell);
    }
    grid.append(row);
  }
  if (all.length) cells.get(all[0].key).tabIndex = 0;
  grid.addEventListener('click', (event) => {
    const cell = event.target.closest('[data-tip]');
    if (cell) openPlace(placeOf.get(cell.dataset.tip));
  });
  grid.addEventListener('keydown', mapKey);
  tipFor(grid, (cell) => mapTip(placeOf.get(cell.dataset.tip)));
  const select = $('map-column');
  const used = MAPS.filter(([name]) => UNITS.some((item) => ![null, undefined, ''].includes(item[name])));
  select.append(...used.map(([name, text]) => h('option', { value: name }, text)));
  if (used.some(([name]) => name === 'verdict') && !used.some(([name]) => name === 'score')) select.value = 'label';
  select.addEventListener('change', paintMap);
  paintMap();
}

function openPlace(place) {
  if (place.items.length === 1) openCard(place.items[0].unit);
  else searchFor(placeName(place));
}
function placeName(place) {
  const [first, last] = [place.items[0], place.items.at(-1)];
  return first === last ? first.unit : `${first.unit}-${last.unit}`;
}

// The value of a cell: that of its unit; of several the mean, or what most of them are.
function placeValue(place, name) {
  if (place.items.length === 1) return place.items[0][name];
  const values = place.items.map((item) => item[name]).filter((value) => ![null, undefined, ''].includes(value));
  if (!values.length) return null;
  if (typeof values[0] === 'number') return values.reduce((sum, value) => sum + value, 0) / values.length;
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
  return [...counts].reduce((best, one) => (one[1] > best[1] ? one : best))[0];
}

function mapKey(event) {
  const cell = event.target.closest('.cell');
  const place = cell && placeOf.get(cell.dataset.tip);
  if (!place) return;
  if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); openPlace(place); return; }
  const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
  const step = steps[event.key];
  let next = null;
  if (step) {
    for (let k = 1; k <= 256 && !next; k += 1) next = placeKey(place.layer + k * step[0], place.column + k * step[1]);
  } else if (event.key === 'Home' || event.key === 'End') {
    const row = [...places.values()].filter((other) => other.layer === place.layer);
    next = row[event.key === 'Home' ? 0 : row.length - 1];
  }
  if (!next) return;
  event.preventDefault();
  rove([cell, cells.get(next.key)], 0, 1);
}

function mapTip(place) {
  const [name, text] = MAPS.find(([key]) => key === $('map-column').value);
  const value = placeValue(place, name);
  const shownValue = `${text}: ${typeof value === 'number' ? fmt(value) : words(value) || NONE}`;
  if (place.items.length > 1) return [placeName(place), `${shownValue} (of ${place.items.length})`];
  const item = place.items[0];
  const lines = [`${item.unit} · ${words(item.label) || item.status}${item.verdict ? ` · ${item.verdict}` : ''}`, shownValue];
  if (item.summary) lines.push(item.summary.length > 160 ? `${item.summary.slice(0, 160)}…` : item.summary);
  return lines;
}

function mapRange(values, kind) {
  const high = values.reduce((a, b) => Math.max(a, b), 0);
  const low = values.reduce((a, b) => Math.min(a, b), 0);
  if (kind === 'unit') return low < 0 ? [-1, 1] : [0, 1];
  if (kind === 'signed' || (kind === 'free' && low < 0)) {
    const size = Math.max(high, -low) || 1;
    return [-size, size];
  }
  if (kind === 'free' && high <= 1 && high > 0.2) return [0, 1];
  return [0, high || 1];
}

function paintMap() {
  const [name, text, kind] = MAPS.find(([key]) => key === $('map-column').value) || MAPS[0];
  const values = new Map([...placeOf.values()].map((place) => [place, placeValue(place, name)]));
  const range = kind === 'category' ? null : mapRange([...values.values()].filter((value) => typeof value === 'number'), kind);
  for (const [place, value] of values) {
    const cell = cells.get(place.key);
    cell.className = 'cell';
    cell.textContent = '';
    cell.setAttribute('aria-label', `${placeName(place)}, ${text} ${typeof value === 'number' ? fmt(value) : words(value) || 'none'}`);
    if (value === null || value === undefined || value === '') cell.classList.add('void');
    else if (kind === 'category') { cell.classList.add('code', codeClass(name, value)); cell.textContent = codeText(name, value); }
    else {
      cell.classList.add('heat', value < 0 ? 'neg' : 'pos');
      cell.style.setProperty('--p', `${Math.round(100 * clamp(Math.abs(value) / range[1]))}%`);
    }
  }
  paintLegend(name, range);
  dimMap();
}

const STATE_CLASS = { ok: 'v-supported', dead: 'v-unscored', dense: 'v-partly' };
function codeClass(name, value) {
  return name === 'label' ? `f-${family(value)}` : name === 'state' ? STATE_CLASS[value] : `v-${value}`;
}
function codeText(name, value) {
  return name === 'label' ? CODES[value] || '·' : name === 'state' ? '' : VERDICT_SIGNS[value];
}

function paintLegend(name, range) {
  const legend = $('map-legend');
  legend.replaceChildren();
  if (range) {
    const half = range[0] < 0;
    put(legend, {}, [h('span', {}, fmt(range[0])), h('span', { class: `ramp ${half ? 'two' : 'one'}` }),
      h('span', {}, fmt(range[1])), half ? h('span', { class: 'hint' }, 'the middle is 0') : null,
      h('span', { class: 'swatch void' }), h('span', {}, 'no value'),
      MAP_STEP > 1 ? h('span', { class: 'hint' }, `a cell is the mean of ${MAP_STEP} ${NOUN.many}`) : null]);
    return;
  }
  const counts = new Map();
  for (const item of UNITS) counts.set(item[name] || '', (counts.get(item[name] || '') || 0) + 1);
  const order = name === 'verdict' ? D.verdicts : name === 'state' ? D.state_names : D.all_labels;
  legend.replaceChildren(...[...order, ''].filter((key) => counts.has(key)).map((key) => h('span', { class: 'entry' },
    h('span', { class: `swatch code ${key ? codeClass(name, key) : 'void'}` }, key ? codeText(name, key) : ''),
    `${words(key) || 'no value'} ${fmt(counts.get(key))}`)));
}

function dimMap() {
  const visible = new Set(shownUnits());
  for (const [key, cell] of cells) cell.classList.toggle('dim', !placeOf.get(key).items.some((item) => visible.has(item)));
}
