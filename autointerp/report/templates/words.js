// What the head writes at a row, in words: logit lens, entity lens and SelfIE, each beside its controls and its verdict.
const WRITES = { output: 'its output', difference: 'the difference it makes' };
const CONTROL_SAYS = {
  random_norm: 'a random vector of its norm', mean: 'the mean over other documents', shuffled: 'a row of another document', none: 'no vector',
  zero: 'a zero vector', random: 'a random vector of its norm', text_only: 'the text alone, no vector', without: 'the stream without it',
};

function wordsDetails(example) {
  const read = example.words;
  if (!read) return null;
  const judged = [...read.vectors.flatMap((vector) => [vector.entity, ...vector.selfie]), read.stream].filter(Boolean);
  const good = judged.filter((said) => said.verdict === 'specific').length;
  const hint = !judged.length ? 'logit lens' : good ? `${good} of ${judged.length} readings beat their controls` : 'no reading beats its controls';
  return h('details', { class: 'more' }, h('summary', {}, 'what the head writes, in words ', h('span', { class: 'count' }, hint)),
    h('div', { class: 'lists' }, read.vectors.map(writtenLists)), entityTable(read), selfieTable(read));
}

function writtenLists(vector) {
  return [['up', 'promotes'], ['down', 'suppresses']].filter(([name]) => vector[name].length)
    .map(([name, verb]) => valueList(`${WRITES[vector.what]} ${verb}`, vector[name]));
}

function judgedTag(verdict) {
  return h('span', { class: verdict === 'specific' ? 'verdict v-supported' : 'tag' }, words(verdict));
}

function controlLines(controls, unit) {
  return h('details', { class: 'said-under' }, h('summary', {}, `${controls.length} control${controls.length === 1 ? '' : 's'}`),
    h('ul', {}, controls.map(([name, said, value]) => h('li', {}, h('span', { class: 'soft' }, `${CONTROL_SAYS[name] || words(name)}: `),
      mono(said || '∅'), h('span', { class: 'soft' }, ` ${fmt(value, 2)}${unit}`)))));
}

function entityTable(read) {
  const rows = read.vectors.filter((vector) => vector.entity).map((vector) => entityRow(WRITES[vector.what], vector.entity));
  if (read.stream) rows.push(entityRow('the final stream, the head in it', read.stream));
  if (!rows.length) return null;
  return [h('h4', {}, 'Entity lens', h('span', { class: 'hint' }, ' the name that a vector stands for; margin: nats a token over random vectors; p: how often theirs reach it')),
    table(['vector', 'stands for', 'likelihood', 'margin', 'p', '', 'in its place'], rows, [2, 3, 4])];
}

function entityRow(name, said) {
  return [name, mono(said.said || '∅'), fmt(said.likelihood, 2), said.margin === null ? '' : fmt(said.margin), fmt(said.p, 2), judgedTag(said.verdict), controlLines(said.controls, '')];
}

function selfieTable(read) {
  const rows = read.vectors.flatMap((vector) => vector.selfie.map((said) => [WRITES[vector.what], said.prompt, mono(said.said || '∅'),
    fmt(said.margin), fmt(said.p, 2), judgedTag(said.verdict), controlLines(said.controls, ' nats')]));
  if (!rows.length) return null;
  return [h('h4', {}, 'SelfIE', h('span', { class: 'hint' }, ' the model asked about the vector; margin: nats over the strongest control')),
    table(['vector', 'asked', 'says', 'margin', 'p', '', 'under controls'], rows, [3, 4])];
}
