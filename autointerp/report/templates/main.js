// The lower part of every card, and what starts the page.
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
  if (made.left_out) return section('Prompt and reply', '', h('p', { class: 'hint' }, `Left out to keep the page small; they are in ${NOUN.file} and calls.jsonl.`));
  if (!made.prompt.length && !made.raw_replies.length) return section('How it was made', '', h('p', { class: 'soft' }, `By ${made.explainer || 'no explainer'}, without an LLM: there is no prompt and no reply.`));
  const about = [['template', `${made.template} ${made.template_hash.slice(0, 12)}`], ['tokens', `${fmt(made.prompt_tokens)} in, ${fmt(made.completion_tokens)} out`], ['repair calls', fmt(made.repairs)],
    ['requests', made.request_hashes.map((hash) => hash.slice(0, 12)).join(', ')]];
  return section('Prompt and reply', made.model, h('dl', {}, about.filter(([, text]) => text.trim()).map(([name, text]) => [h('dt', {}, name), h('dd', {}, text)])),
    h('details', { class: 'more' }, h('summary', {}, `Prompt, ${made.prompt.length} messages`), made.prompt.map((message) => [h('h4', {}, message.role || 'message'), h('pre', {}, message.content ?? JSON.stringify(message))])),
    made.raw_replies.map((reply, i) => h('details', { class: 'more' }, h('summary', {}, made.raw_replies.length > 1 ? `Raw reply ${i + 1}` : 'Raw reply'), h('pre', {}, reply))));
}

function commandSection(card) {
  const command = D.command.replaceAll('@UNIT@', card.unit);
  const said = h('span', { class: 'hint', role: 'status' });
  const copy = h('button', { type: 'button', onclick: async () => {
    try { await navigator.clipboard.writeText(command); said.textContent = ' copied'; } catch { getSelection().selectAllChildren(line); said.textContent = ' selected: copy with your keyboard'; }
  } }, 'Copy');
  const line = h('pre', { class: 'command' }, command);
  return section(`Reproduce this ${NOUN.one}`, '', line, copy, said);
}

function fromHash() {
  const unit = decodeURIComponent(location.hash.slice(1));
  if (BY_UNIT.has(unit)) openCard(unit);
}

document.addEventListener('keydown', (event) => {
  const typing = event.target.closest('input, textarea, select');
  if (event.key === '/' && !typing && !dialog.open) { event.preventDefault(); $('search').focus(); $('search').select(); }
  if (event.key === 'Escape' && event.target === $('search')) { $('search').value = ''; updateTable(); }
});
addEventListener('scroll', moveTip, { passive: true, capture: true });
addEventListener('hashchange', fromHash);
buildTable();
if ($('map-grid')) buildMap();
fromHash();
