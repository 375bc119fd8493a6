// The agent's timeline: hypotheses with their scores on the select split, experiments with their numbers, revisions.
function agentSection(card) {
  const agent = card.agent;
  if (!agent) return null;
  const about = `kept: ${agent.chosen}. ${agent.rounds ? `${agent.rounds} ${agent.rounds === 1 ? 'round' : 'rounds'}` : 'no round'}, k = ${agent.k}; `
    + `${fmt(agent.tokens[0])} tokens in, ${fmt(agent.tokens[1])} out. Stopped: ${agent.stop}`;
  return section('How the description was tested', 'on the explain and select splits; the test split is read once, for the verdict',
    h('p', { class: 'hint' }, about),
    agent.one_shot && agent.chosen !== 'one shot' ? h('p', {}, h('b', {}, 'One-shot answer: '), agent.one_shot) : null,
    agent.turns ? h('details', { class: 'more' }, h('summary', {}, `Timeline, ${agent.turns.length} ${agent.turns.length === 1 ? 'step' : 'steps'}`),
      h('ol', { class: 'timeline' }, agent.turns.map(agentTurn))) : h('p', { class: 'hint' }, `The timeline is left out to keep the page small; ${NOUN.file} has it.`));
}

function agentTurn(turn) {
  const where = turn.round ? `round ${turn.round}: ${turn.step}` : turn.step;
  const rows = turn.hypotheses.map(([name, label, looksAt, predicate, standing, why, [value, low, high, chance, coverage], moves]) => [
    name, tag(label), h('span', {}, looksAt, predicate ? [' ', h('code', {}, predicate)] : null, moves.map(([verb, tokens]) => [` ${verb} `, tokens.map((token) => [mono(token), ' '])])), value === null || value === undefined ? NONE : `${fmt(value)} ${interval(low ?? null, high ?? null)}`,
    fmt(chance), coverage === null || coverage === undefined ? NONE : percent(coverage), h('span', { title: why }, standing)]);
  return h('li', {}, h('h4', {}, where, ' ', h('span', { class: 'hint' }, `${fmt(turn.tokens[0])} tokens in, ${fmt(turn.tokens[1])} out`)),
    turn.thought ? h('p', {}, turn.thought) : null,
    turn.failure ? h('p', { class: 'bad' }, `failed: ${turn.failure}`) : null,
    turn.note ? h('p', { class: 'hint' }, turn.note) : null,
    turn.abstained ? h('p', {}, 'It abstains.') : null,
    rows.length ? table(['', 'label', 'claim', 'on select', 'chance', 'covers', 'standing'], rows, [3, 4, 5]) : null,
    turn.experiments.map(([tool, asked, state, answer]) => h('details', { class: 'more' },
      h('summary', {}, h('b', {}, words(tool) || 'no experiment'), state ? h('span', { class: 'bad' }, ` ${state}`) : null, ' ', h('span', { class: 'hint' }, asked)),
      h('pre', { class: 'mono' }, answer))));
}
