// Where everything goes. The daemon lays the picture out, once for every face:
// placed() reads its boxes and paths. down() is made here, for a narrow page, where
// the big picture could not be read.

const slim = {indent: 20, h: 50};

// Each returns {boxes: Map id → {node, x, y, w, h}, cables, width, height}. A
// cable is {id, from, to, port, points, health, note}; points lead from the outside
// in.

// placed is the picture as the daemon lays it out.
export function placed(topology) {
  const boxes = new Map(), cables = [], byID = new Map(topology.nodes.map((n) => [n.id, n]));
  // Ports last: they lie on their guests.
  for (const last of [false, true]) {
    for (const n of topology.nodes) if (n.box && (n.kind === 'port') === last) boxes.set(n.id, {node: n, ...n.box});
  }
  for (const e of topology.edges) {
    if (!e.path?.length) continue;
    const to = byID.get(e.to);
    cables.push({...e, points: bend(e.path.map((p) => [p.x, p.y])), counted: counter(e, byID.get(e.from), to), note: e.note || ''});
  }
  return {boxes, cables, width: topology.width, height: topology.height, frame: topology.frame};
}

// counter is the id of what counts the traffic of a cable: the tap, the NIC that is
// plugged in or leads to the LAN, and the switch where the host routes for it.
export function counter(e, from, to) {
  if (to.kind === 'port' || to.kind === 'host' || e.kind === 'attached') return e.to;
  if (e.kind === 'plugged' && from.kind === 'nic') return e.from;
  return e.kind === 'routed' ? e.to : null;
}

// index finds what hangs on what.
function index({nodes, edges}) {
  const byID = new Map(nodes.map((n) => [n.id, n])), out = new Map(), into = new Map();
  for (const e of edges) {
    if (!byID.has(e.from) || !byID.has(e.to)) continue;
    push(out, e.from, e);
    push(into, e.to, e);
  }
  const of = (kind) => nodes.filter((n) => n.kind === kind);
  // plugs of a switch: port and guest, the port alone where no guest is known.
  const seen = new Set();
  const plugs = new Map(of('bridge').map((b) => [b.id, (out.get(b.id) || []).filter((e) => byID.get(e.to).kind === 'port').map((e) => {
    const port = byID.get(e.to), guestEdge = (out.get(port.id) || [])[0];
    const card = guestEdge ? byID.get(guestEdge.to) : port;
    const first = !seen.has(card.id);
    seen.add(card.id);
    return {port, card, first};
  })]));
  return {byID, out, into, of, plugs};
}

function push(map, key, value) {
  if (!map.has(key)) map.set(key, []);
  map.get(key).push(value);
}

// A cable is as bad as its worst end, and as it is itself.
const order = ['ok', 'unknown', 'down', 'stopped', 'warning', 'problem'];

function cable(id, ends, points, more) {
  let health = 'ok', note = '';
  for (const n of [...ends.slice(1), ...(more?.edge ? [more.edge] : ends.slice(0, 1))]) {
    if (order.indexOf(n.health) > order.indexOf(health)) { health = n.health; note = n.note || ''; }
  }
  const finding = more?.edge?.finding || ends[ends.length - 1].findings?.find((f) => f.severity !== 'note')?.id;
  return {id, points, health, note, finding, from: ends[0].id, to: ends[ends.length - 1].id, ...more};
}

// down puts one thing below the other, as far to the right as it is from the LAN.
export function down(topology, room) {
  const g = index(topology), boxes = new Map(), cables = [], done = new Set();
  let y = 0;
  const place = (node, depth, parent, more) => {
    if (done.has(node.id)) return;
    done.add(node.id);
    const x = depth * slim.indent, box = {node, x, y, w: room - x, h: node.kind === 'guest' || node.kind === 'port' || node.kind === 'host' ? 46 : slim.h + (node.kind === 'bridge' ? 14 : 0), ...more};
    boxes.set(node.id, box);
    y += box.h + 10;
    if (parent) {
      const p = boxes.get(parent.id), rail = p.x + slim.indent / 2, ends = more?.port ? [parent, more.port, node] : [parent, node];
      const edge = (g.out.get(parent.id) || []).find((e) => e.to === (more?.port || node).id);
      cables.push(cable(more?.port ? more.port.id : parent.id + ' ' + node.id, ends, bend([[rail, p.y + p.h], [rail, box.y + box.h / 2], [x, box.y + box.h / 2]]), {port: more?.port, edge, counted: more?.port ? more.port.id : edge ? counter(edge, parent, node) : null, translated: edge?.translated}));
    }
    for (const p of g.plugs.get(node.id) || []) place(p.card, depth + 1, node, {port: p.port});
    if (node.kind === 'guest' || node.kind === 'port' || node.kind === 'host') return;
    for (const e of g.out.get(node.id) || []) {
      const to = g.byID.get(e.to);
      if (to.kind !== 'port' && to.kind !== 'forward') place(to, depth + 1, node);
    }
    if (depth === 0) y += 10;
  };
  for (const kind of ['lan', 'nic', 'bridge']) for (const n of g.of(kind)) if (!(g.into.get(n.id) || []).length) place(n, 0);
  for (const kind of ['nic', 'bridge']) for (const n of g.of(kind)) place(n, 0);
  return {boxes, cables, width: room, height: y};
}

// bend rounds the corners of a line.
function bend(corners, radius = 8) {
  const points = [corners[0]];
  for (let i = 1; i < corners.length - 1; i++) {
    const [a, b, c] = [corners[i - 1], corners[i], corners[i + 1]];
    const r = Math.min(radius, distance(a, b) / 2, distance(b, c) / 2);
    const from = toward(b, a, r), to = toward(b, c, r);
    for (const t of [0, 0.25, 0.5, 0.75, 1]) {
      const u = 1 - t;
      points.push([u * u * from[0] + 2 * u * t * b[0] + t * t * to[0], u * u * from[1] + 2 * u * t * b[1] + t * t * to[1]]);
    }
  }
  points.push(corners[corners.length - 1]);
  return points;
}

const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);

function toward(from, to, d) {
  const l = distance(from, to) || 1;
  return [from[0] + (to[0] - from[0]) * d / l, from[1] + (to[1] - from[1]) * d / l];
}

// doorsOf finds the forwards that lead to each guest, by the guest's id.
export function doorsOf(topology) {
  const by = new Map(), doors = new Map(topology.nodes.filter((n) => n.kind === 'forward').map((n) => [n.id, n]));
  for (const e of topology.edges) {
    if (e.kind !== 'door' || !doors.has(e.from)) continue;
    if (!by.has(e.to)) by.set(e.to, []);
    by.get(e.to).push(doors.get(e.from));
  }
  return by;
}
