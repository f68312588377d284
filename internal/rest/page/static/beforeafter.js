// The picture of a plan: how it is and how it would be in one, with marks for what
// is added, changed and removed, as the daemon draws it.

import {h} from './dom.js';
import {Picture} from './picture.js';

// drawn is what a dry run is asked for beside its steps. Most guests are folded:
// those that the change is about are drawn all the same.
export const drawn = {draw: 'graph', fold: 4, columns: 4};

// beforeAfter draws a change that was only planned, or returns null where the
// picture would stay the same.
export function beforeAfter(change) {
  const topology = change.picture;
  const marked = topology?.nodes.filter((n) => n.mark) || [];
  if (!marked.length && !topology?.edges.some((e) => e.mark)) return null;
  const picture = new Picture({open: () => {}, tip: {show() {}, move() {}, hide() {}}, fixed: true});
  picture.tools.remove();
  picture.legend.replaceChildren(h('span', {class: 'key added'}, 'added'), h('span', {class: 'key changed'}, 'changed'), h('span', {class: 'key removed'}, 'removed'));
  // What is touched is shown as large as it goes.
  const near = new Set(marked.map((n) => n.id));
  for (const e of topology.edges) if (e.mark) { near.add(e.from); near.add(e.to); }
  for (const n of topology.nodes) if (n.kind === 'nic' && n.uplink) near.add(n.id);
  picture.resized = () => { picture.moved = true; picture.draw(topology); picture.fitTo([...near]); };
  picture.sizes.observe(picture.el);
  return h('div', {class: 'mini', role: 'img', 'aria-label': 'Before and after: ' + (marked.map((n) => `${n.kind} ${n.name} ${n.mark}`).join(', ') || 'cables change')}, picture.el);
}
