// The lower half of the card, and what starts the page.
function whereSection(card) {
  const [buckets, values] = card.histogram;
  const most = Math.max(1e-9, ...values.map((value) => value || 0));
  const bars = h('div', { class: 'histogram', role: 'img', 'aria-label': `Share by distance: ${buckets.map((name, i) => `${name}: ${fmt(values[i], 2)}`).join(', ')}` },
    buckets.map((name, i) => h('div', { class: 'bin' }, h('span', { class: 'n' }, values[i] ? fmt(values[i], 2) : ''),
      h('i', { '--p': `${(100 * (values[i] || 0)) / most}%` }), h('span', {}, name))));
  const stats = card.stats.filter((row) => row[3] !== null)
    .map(([name, unit, median, value, low, high, n]) => [name, `${fmt(value)}${unit ? ` ${unit}` : ''}`, interval(low, high), median === null ? '' : fmt(median), n ? fmt(n) : '']);
  return section('Where it looks', `over ${fmt(card.counts[0])} rows of ${fmt(card.counts[1])} documents`,
    h('div', { class: 'columns' },
      h('div', {}, h('h4', {}, 'Share by distance in tokens'), bars,
        h('div', { class: 'lists' }, totals('sources', card.sources), totals('destinations', card.destinations))),
      h('div', {}, table(['statistic', 'mean', '95 %', 'median', 'n'], stats, [1, 2, 3, 4]),
        h('p', { class: 'hint' }, `activity at the 1, 10, 25, 50, 75, 90, 99 % quantiles: ${card.activity.map((value) => fmt(value)).join(', ')}`),
        card.notes.map((note) => h('p', { class: 'hint' }, note)))));
}

function totals(title, rows) {
  if (!rows.length) return null;
  const more = rows.slice(10);
  const make = (part) => table([title, 'part', 'in text', '×'], part.map(([token, value, base]) => [mono(token), percent1(value), percent1(base), base && value !== null ? (value / base).toFixed(1) : '']), [1, 2, 3]);
  return h('div', {}, make(rows.slice(0, 10)), more.length ? h('details', { class: 'more' }, h('summary', {}, `${more.length} more`), make(more)) : null);
}
function percent1(value) { return value === null ? NONE : `${(100 * value).toFixed(1)} %`; }

function writesSection(card) {
  const { up, down, copies, n } = card.readout;
  if (!up.length && !down.length && copies[0] === null) return section('What it writes', '', h('p', { class: 'soft' }, 'No readout is available for this model.'));
  return section('What it writes', `read through the unembedding over ${fmt(n)} of its own top rows, in logits`,
    h('div', { class: 'lists' }, valueList('promotes', up), valueList('suppresses', down),
      h('div', {}, h('h4', {}, 'the attended token itself'), h('p', {}, `${signed(copies[0])} ${interval(copies[1], copies[2])} `, h('span', { class: 'hint' }, copies[1] > 0 ? 'copies it' : copies[2] < 0 ? 'suppresses it' : 'no clear sign')))));
}

function detectorsSection(card) {
  const rows = [...card.readings].sort((a, b) => (b[8] - a[8]) || (b[7] ?? 0) - (a[7] ?? 0)).map(([name, data, value, low, high, percentile, nullMax, lift, fires, n, detail]) => [
    h('span', { title: detail || null }, fires ? h('b', {}, words(name)) : words(name), detail ? h('span', { class: 'hint' }, ` ${detail}`) : null), data, fmt(value), interval(low, high), fmt(percentile), fmt(nullMax), lift === null ? NONE : `${fmt(lift, 2)} ×`, fires ? '● fires' : '', fmt(n)]);
  if (!rows.length) return null;
  return section('Detectors', 'against a random-weights model', table(['detector', 'measured on', 'value', '95 %', 'percentile', 'null max', 'over uniform', '', 'n'], rows, [2, 3, 4, 5, 6, 8]));
}

function scoresSection(card) {
  const rows = card.scores.map((score) => [words(score.scorer), score.main ? h('b', {}, score.metric) : score.metric, score.domain, fmt(score.value), interval(score.low, score.high),
    fmt(score.chance), fmt(score.prevalence), fmt(score.n_items), fmt(score.n_docs), score.state,
    score.details.map(([name, value]) => `${words(name)} ${typeof value === 'number' ? fmt(value) : value ?? NONE}`).join(' · ')]);
  const parts = rows.length ? [table(['scorer', 'metric', 'on', 'value', '95 %', 'chance', 'prevalence', 'items', 'documents', 'state', 'details'], rows, [3, 4, 5, 6, 7, 8])] : [];
  return parts.length ? section('All scores, in full', '', h('details', { class: 'more' }, h('summary', {}, 'every number'), ...parts)) : null;
}

function failuresSection(card) {
  if (!card.failures.length) return null;
  return h('div', { class: 'panel notes', role: 'note' }, h('h3', {}, 'What failed'), card.failures.map(([stage, reason, raw]) => h('div', {},
    h('p', {}, h('b', {}, stage), `: ${reason}`), raw ? h('details', { class: 'more' }, h('summary', {}, 'raw'), h('pre', {}, raw)) : null)));
}

function madeSection(card) {
  const made = card.made;
  if (made.left_out) return section('Prompt and reply', '', h('p', { class: 'hint' }, 'Left out to keep the page small; they are in heads.jsonl and calls.jsonl.'));
  if (!made.prompt.length && !made.raw_replies.length) return section('How it was made', '', h('p', { class: 'soft' }, `By ${made.explainer || 'no explainer'}, without an LLM: there is no prompt and no reply.`));
  const about = [['template', `${made.template} ${made.template_hash.slice(0, 12)}`], ['tokens', `${fmt(made.prompt_tokens)} in, ${fmt(made.completion_tokens)} out`], ['repair calls', fmt(made.repairs)],
    ['requests', made.request_hashes.map((hash) => hash.slice(0, 12)).join(', ')]];
  return section('Prompt and reply', made.model, h('dl', {}, about.filter(([, text]) => text.trim()).map(([name, text]) => [h('dt', {}, name), h('dd', {}, text)])),
    h('details', { class: 'more' }, h('summary', {}, `Prompt, ${made.prompt.length} messages`), made.prompt.map((message) => [h('h4', {}, message.role || 'message'), h('pre', {}, message.content ?? JSON.stringify(message))])),
    made.raw_replies.map((reply, i) => h('details', { class: 'more' }, h('summary', {}, made.raw_replies.length > 1 ? `Raw reply ${i + 1}` : 'Raw reply'), h('pre', {}, reply))));
}

function commandSection(card) {
  const command = D.command.replaceAll('@HEAD@', card.head);
  const said = h('span', { class: 'hint', role: 'status' });
  const copy = h('button', { type: 'button', onclick: async () => {
    try { await navigator.clipboard.writeText(command); said.textContent = ' copied'; } catch { getSelection().selectAllChildren(line); said.textContent = ' selected: copy with your keyboard'; }
  } }, 'Copy');
  const line = h('pre', { class: 'command' }, command);
  return section('Reproduce this head', '', line, copy, said);
}

function fromHash() {
  const head = decodeURIComponent(location.hash.slice(1));
  if (BY_HEAD.has(head)) openCard(head);
}

document.addEventListener('keydown', (event) => {
  const typing = event.target.closest('input, textarea, select');
  if (event.key === '/' && !typing && !dialog.open) { event.preventDefault(); $('search').focus(); $('search').select(); }
  if (event.key === 'Escape' && event.target === $('search')) { $('search').value = ''; updateTable(); }
});
addEventListener('scroll', moveTip, { passive: true, capture: true });
addEventListener('hashchange', fromHash);
buildTable();
buildMap();
fromHash();
