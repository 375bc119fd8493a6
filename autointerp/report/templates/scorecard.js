// The scorecard: every score of a unit with its interval drawn, its chance line and its controls; what has no number and why.
function scorecardSection(card) {
  const rows = card.scores.map(scorecardRow);
  for (const [scorer, reason] of card.unscored) rows.push([scorerName(scorer, false), '', '', '', '', '', h('span', { class: 'soft' }, `unscored: ${reason}`)]);
  if (!rows.length) return null;
  return section('Scorecard', 'held-out text; the line is the 95 % interval over documents, the tick the chance line',
    table(['scorer', 'metric', '', 'value', 'n', 'nulls and rivals', 'note'], rows, [3, 4]),
    card.scores.flatMap((score) => score.lines).map(([name, text]) => h('p', { class: 'hint' }, h('b', {}, words(name)), `: ${text}`)));
}

function scorerName(name, main) {
  const base = name.split(' on ')[0];
  return h('span', {}, main ? h('b', {}, words(name)) : words(name), SCORER_SAYS[base] ? h('span', { class: 'hint' }, ` ${SCORER_SAYS[base]}`) : null);
}

function scorecardRow(score) {
  const beaten = score.controls.filter((control) => control.beaten || control.same_rule).length;
  const against = score.controls.length ? h('span', { title: score.controls.map((c) => `${words(c.name)} ${fmt(c.value)}: ${c.same_rule ? 'the same rule' : c.beaten ? 'beaten' : 'not beaten'}`).join('\n') },
    `${beaten} of ${score.controls.length}`) : '';
  const details = Object.fromEntries(score.details);
  const note = [score.state, details.supported ? (details.supported === 'yes' ? 'causally supported' : 'not causally supported') : ''].filter(Boolean).join('; ');
  return [scorerName(score.scorer, score.main), `${words(score.metric)} on ${score.domain}`, intervalBar(score), `${fmt(score.value)} ${interval(score.low, score.high)}`,
    `${fmt(score.n_items)} / ${fmt(score.n_docs)}`, against, note];
}

// One value with its interval on a track of its own: [0, 1], wider where the interval is, narrower for effects in nats.
function intervalBar(score) {
  if (score.value === null) return '';
  const small = score.metric.startsWith('kl');
  const ends = [score.value, score.low ?? score.value, score.high ?? score.value, score.chance ?? 0];
  const least = Math.min(0, ...ends);
  const most = small ? Math.max(1e-12, ...ends) * 1.05 : Math.max(1, ...ends);
  const x = (value) => 4 + (132 * (value - least)) / (most - least);
  const text = `${words(score.metric)} ${fmt(score.value)} ${interval(score.low, score.high)}, chance ${fmt(score.chance)}`;
  return svg('svg', { viewBox: '0 0 140 14', width: 140, height: 14, role: 'img', 'aria-label': text, class: 'bar-of' },
    [svg('line', { x1: x(least), x2: x(most), y1: 7, y2: 7, class: 'rail' }),
      score.low === null || score.high === null ? null : svg('line', { x1: x(score.low), x2: Math.max(x(score.high), x(score.low) + 1), y1: 7, y2: 7, class: 'span' }),
      score.chance === null ? null : svg('line', { x1: x(score.chance), x2: x(score.chance), y1: 1, y2: 13, class: 'chance' }),
      svg('circle', { cx: x(score.value), cy: 7, r: 3.2, class: 'at' })].filter(Boolean));
}
