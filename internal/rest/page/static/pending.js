// The change that waits for somebody: how long there is, and the buttons that
// decide. It is shown whatever else is, also while the daemon cannot be reached.

import {h, replace} from './dom.js';
import * as act from './actions.js';
import {mayChange, on, refresh, state} from './live.js';

let known = null; // the change, and when its time is over by our clock
let timer = 0;

export function start(el) {
  on('status self connected', () => draw(el));
  draw(el);
}

function draw(el) {
  const changes = state.status?.changes || [];
  const c = changes.find((x) => x.deadline_s !== undefined) || changes.find((x) => x.phase === 'stuck') || changes.find((x) => x.phase === 'rolling-back' || x.phase === 'applying' && x.risk === 'host');
  clearInterval(timer);
  if (!c) { known = null; replace(el); return; }
  const until = c.deadline_s === undefined ? null : performance.now() + c.deadline_s * 1000;
  // The daemon counts whole seconds: ours runs on between its answers.
  if (known?.id !== c.id || until === null || known.until === null || Math.abs(known.until - until) > 1500) known = {id: c.id, until};
  const left = () => (known?.until - performance.now()) / 1000;
  const clock = h('b', {class: 'clock', 'aria-hidden': 'true'}), meter = h('meter', {min: 0, max: 60, 'aria-hidden': 'true'});
  const busy = (f) => async (e) => {
    for (const b of el.querySelectorAll('button')) b.disabled = true;
    replace(e.target, 'Sending…');
    try { await f(); } finally {
      // Whatever became of it: what is shown next can be clicked.
      el.dataset.id = '';
      draw(el);
    }
  };
  if (el.dataset.id === c.id + c.phase + mayChange() && el.querySelector('.clock') && until !== null) {
    // The same as before: the buttons stay, and with them the focus.
  } else {
    el.dataset.id = c.id + c.phase + mayChange();
    replace(el, h('div', {class: 'pending ' + c.phase, role: 'alertdialog', 'aria-label': 'A change waits for you'},
      h('div', {class: 'words'}, h('strong', {}, c.title), h('span', {}, words(c)), c.problem && h('span', {}, c.problem)),
      until !== null && [meter, clock],
      until !== null && mayChange() && h('div', {class: 'buttons'}, h('button', {type: 'button', class: 'keep', onclick: busy(() => act.keepChange(c, left))}, 'Keep it'),
        h('button', {type: 'button', class: 'back', onclick: busy(() => act.takeBack(c))}, 'Take it back'), h('button', {type: 'button', class: 'more', onclick: busy(() => act.moreTime(c))}, 'A minute more'))));
  }
  if (until === null) return;
  const tick = () => {
    const t = Math.max(0, Math.ceil(left())), at = el.querySelector('.clock'), bar = el.querySelector('meter');
    if (!at) return;
    if (at.textContent !== `${t} s`) replace(at, `${t} s`);
    bar.max = Math.max(bar.max, t);
    bar.value = t;
    if (t === 0) { clearInterval(timer); setTimeout(() => refresh('status'), 700); }
  };
  tick();
  timer = setInterval(tick, 250);
}

function words(c) {
  if (c.phase === 'stuck') return 'could not be taken back completely: see drawbridge change show ' + c.id;
  if (c.phase === 'rolling-back') return 'is being taken back';
  if (c.deadline_s === undefined) return 'is being carried out';
  return (state.connected ? 'is done, on trial.' : 'is done, on trial, and the daemon does not answer just now.') + ' It is taken back by itself unless you keep it:';
}
