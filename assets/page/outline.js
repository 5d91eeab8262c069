// Where the nodes of a search tree stand. Wide places have a column for every depth, narrow ones a line for every node.

const CARD = { width: 218, height: 88 };
const GAP = { x: 44, y: 14 };
const NARROW = { room: 560, indent: 18 };
const EDGE = 3;

function family(nodes) {
  const known = new Set(nodes.map((node) => node.id));
  const children = new Map(nodes.map((node) => [node.id, []]));
  const drafts = [];
  for (const node of nodes) {
    if (known.has(node.parent)) children.get(node.parent).push(node.id);
    else drafts.push(node.id);
  }
  return { children, drafts };
}

function wide({ children, drafts }) {
  const boxes = new Map();
  let bottom = EDGE;
  const place = (id, column) => {
    const below = children.get(id);
    for (const child of below) place(child, column + 1);
    let y = bottom;
    if (below.length > 0) y = (boxes.get(below[0]).y + boxes.get(below.at(-1)).y) / 2;
    else bottom += CARD.height + GAP.y;
    boxes.set(id, { x: EDGE + column * (CARD.width + GAP.x), y, width: CARD.width, height: CARD.height });
  };
  for (const draft of drafts) place(draft, 0);
  return boxes;
}

function narrow({ children, drafts }, room) {
  const boxes = new Map();
  const place = (id, depth) => {
    const x = EDGE + Math.min(depth, 6) * NARROW.indent;
    boxes.set(id, { x, y: EDGE + boxes.size * (CARD.height + GAP.y), width: room - x - EDGE, height: CARD.height });
    for (const child of children.get(id)) place(child, depth + 1);
  };
  for (const draft of drafts) place(draft, 0);
  return boxes;
}

function curve(from, to) {
  const [x1, y1, x2, y2] = [from.x + from.width, from.y + from.height / 2, to.x, to.y + to.height / 2];
  const bend = (x2 - x1) / 2;
  return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
}

function elbow(from, to) {
  const x = from.x + NARROW.indent / 2;
  return `M${x} ${from.y + from.height}V${to.y + to.height / 2}H${to.x}`;
}

/** The boxes of nodes by id, the lines between them, and the size of it all, in pixels, where `room` pixels are wide. */
export function outline(nodes, room) {
  const kin = family(nodes);
  const isNarrow = room < NARROW.room;
  const boxes = isNarrow ? narrow(kin, room) : wide(kin);
  const line = isNarrow ? elbow : curve;
  const edges = nodes
    .filter((node) => boxes.has(node.parent))
    .map((node) => ({ from: node.parent, to: node.id, d: line(boxes.get(node.parent), boxes.get(node.id)) }));
  const all = [...boxes.values()];
  const extent = (side, size) => Math.max(0, ...all.map((box) => box[side] + box[size])) + EDGE;
  return { boxes, edges, width: extent("x", "width"), height: extent("y", "height") };
}

/** The node that an arrow key leads to from `id`, or null. */
export function neighbour(nodes, id, arrow) {
  const { children, drafts } = family(nodes);
  const node = nodes.find((one) => one.id === id);
  const parent = children.has(node?.parent) ? node.parent : null;
  const siblings = parent === null ? drafts : children.get(parent);
  const index = siblings.indexOf(id);
  switch (arrow) {
    case "ArrowLeft":
      return parent;
    case "ArrowRight":
      return children.get(id)?.[0] ?? null;
    case "ArrowUp":
      return siblings[index - 1] ?? null;
    case "ArrowDown":
      return siblings[index + 1] ?? null;
    default:
      return null;
  }
}
