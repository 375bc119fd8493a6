// The heads of the run: an item a row of the table, and what is peculiar to heads in what all pages share.
const UNITS = D.rows.map((row, i) => {
  const item = { i, labels: D.labels[i], group: D.groups[i] };
  D.columns.forEach((name, c) => { item[name] = row[c]; });
  D.readings.forEach(([name, data], c) => { item[`${name}/${data}`] = D.values[i][c]; });
  item.unit = item.head;
  item.text = searchText(item);
  return item;
});
const BY_UNIT = new Map(UNITS.map((item) => [item.unit, item]));
const islandOf = (unit) => `data-${unit}`;
const hasCard = () => true;
const mapPlaces = () => UNITS.map((item) => ({ key: item.unit, layer: item.layer, column: item.index, items: [item] }));
const MAP_STEP = 1;
const MAPS = [
  ['score', 'score', 'unit'], ['margin', 'margin', 'signed'], ['label', 'label', 'category'],
  ['verdict', 'verdict', 'category'], ['coverage', 'coverage', 'unit'], ['sink_mass', 'attention on the sink', 'unit'],
  ['entropy', 'entropy / ln n', 'unit'], ['mean_distance', 'mean distance (tokens)', 'positive'],
  ['ablation_loss', 'loss rise when ablated (nats/token)', 'signed'],
  ...['previous_token', 'current_token', 'first_token', 'duplicate_token', 'induction']
    .map((name) => [name, `${words(name)}, on repeats`, 'unit']),
  ...D.readings.map(([name, data]) => [`${name}/${data}`, `${words(name)}, on ${data}`, 'free']),
];
const SAID = [['looks at', 'looks_at'], ['writes', 'writes'], ['conditions', 'conditions'], ['but not', 'counterexamples']];
const SCORER_SAYS = {
  predicate: 'where it looks', first_token: 'where it looks', pointing: 'where it looks, read by a model', detection: 'when it is active, read by a model',
  effect: 'what it writes, read by a model', effect_sign: 'what it writes', conditional_ablation: 'does the model depend on it', patching: 'does its output carry it', probe: 'what it carries',
};
