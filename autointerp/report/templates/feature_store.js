// The neurons or latents of the run, from columns: numbers of all units, and what was said of the reported ones.
const UNITS = D.units.map((unit, i) => {
  const state = D.state_names[D.states[i]];
  const index = Number(unit.slice(unit.search(/[NF]/) + 1));
  return { i, unit, index, layer: D.layers[i], state, status: state === 'ok' ? 'not described' : state, labels: [], group: '', verdict: '' };
});
for (const [name, column] of Object.entries(D.numbers)) column.forEach((value, i) => { UNITS[i][name] = value; });
D.reported.forEach((i, k) => { Object.assign(UNITS[i], { k, labels: D.labels[k], group: D.groups[k] }); });
for (const [name, column] of Object.entries(D.told)) column.forEach((value, k) => { UNITS[D.reported[k]][name] = value; });
for (const i of D.reported) if (UNITS[i].state !== 'ok') Object.assign(UNITS[i], { status: UNITS[i].state, verdict: '', label: null });
const BY_UNIT = new Map(UNITS.map((item) => [item.unit, item]));
const islandOf = (unit) => `data-${Math.floor(BY_UNIT.get(unit).k / D.group)}`;
const hasCard = (item) => item.k !== undefined && item.k < D.reported.length - D.left_out;
const SAID = [['active on', 'looks_at'], ['does', 'writes'], ['conditions', 'conditions'], ['but not', 'counterexamples']];
const SCORER_SAYS = {
  predicate: 'where it is active', detection: 'when it is active, read by a model', simulation: 'how active it is, token by token, read by a model',
  effect: 'what it writes, read by a model', conditional_ablation: 'does the model depend on it there', steering: 'does adding it raise the claimed tokens', ablation: 'what the model loses without it',
};

// The map of neurons: a cell a neuron, or a cell for some neighbours in index where a layer is wide.
const MAP_WIDTH = 174;
const LARGEST = UNITS.reduce((most, item) => Math.max(most, item.index), -1); // as arguments, 130,000 units would be too many
const MAP_STEP = Math.max(1, Math.ceil((LARGEST + 1) / MAP_WIDTH));
function mapPlaces() {
  const places = new Map();
  for (const item of UNITS) {
    const column = Math.floor(item.index / MAP_STEP);
    const key = `${item.layer}/${column}`;
    if (!places.has(key)) places.set(key, { key, layer: item.layer, column, items: [] });
    places.get(key).items.push(item);
  }
  return [...places.values()];
}
const MAPS = [
  ['score', 'score', 'unit'], ['margin', 'margin', 'signed'], ['label', 'label', 'category'], ['verdict', 'verdict', 'category'],
  ['state', 'state', 'category'], ['coverage', 'coverage', 'unit'], ['density', 'density', 'positive'], ['active_share', 'active in', 'positive'],
  ['maximum', 'largest activation', 'free'], ['reference', 'reference activation', 'free'], ['ablation_loss', 'loss rise at its mean (nats/token)', 'signed'],
];
