// What is sketched on a canvas: a list of marks, each a line or a shape.

const TURN = 2 * Math.PI;

/** Corners (x, y) of a shape of radius 1 around the origin. */
const CORNERS = {
  circle: polygon(64),
  square: [[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]],
  triangle: polygon(3),
  star: polygon(10, (corner) => (corner % 2 ? 0.4 : 1)),
  heart: Array.from({ length: 64 }, (_, step) => heart((step / 64) * TURN)),
};
export const SHAPES = Object.keys(CORNERS);
export const PEN = "pen";
const PEN_WIDTH = 6;

function polygon(corners, length = () => 1) {
  return Array.from({ length: corners }, (_, corner) => {
    const angle = (corner / corners) * TURN;
    return [length(corner) * Math.sin(angle), -length(corner) * Math.cos(angle)];
  });
}

function heart(angle) {
  const y = 13 * Math.cos(angle) - 5 * Math.cos(2 * angle) - 2 * Math.cos(3 * angle) - Math.cos(4 * angle);
  return [(16 * Math.sin(angle) ** 3) / 17, -y / 17];
}

/**
 * A sketch on a canvas.
 *
 * A mark is {tool, colour, points}: a line of the pen through all points, or a shape around the first that reaches to
 * the last.
 */
export class Sketch {
  constructor(canvas, ground) {
    Object.assign(this, { canvas, ground });
    this.marks = [];
    this.draw();
  }

  begin(tool, colour, point) {
    this.marks.push({ tool, colour, points: [point] });
    this.draw();
  }

  /** Move the end of the last mark. */
  reach(point) {
    const { tool, points } = this.marks.at(-1);
    if (tool === PEN) points.push(point);
    else points[1] = point;
    this.draw();
  }

  undo() {
    this.marks.pop();
    this.draw();
  }

  clear() {
    this.marks = [];
    this.draw();
  }

  draw() {
    const pen = this.canvas.getContext("2d");
    pen.fillStyle = this.ground;
    pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
    pen.lineWidth = PEN_WIDTH;
    pen.lineCap = pen.lineJoin = "round";
    for (const { tool, colour, points } of this.marks) {
      pen.fillStyle = pen.strokeStyle = colour;
      pen.beginPath();
      for (const [x, y] of tool === PEN ? [points[0], ...points] : around(tool, points)) pen.lineTo(x, y);
      if (tool === PEN) pen.stroke();
      else pen.fill();
    }
  }

  /** The sketch as a PNG file. */
  async file(name) {
    const blob = await new Promise((taken) => this.canvas.toBlob(taken, "image/png"));
    return new File([blob], name, { type: "image/png" });
  }
}

function around(shape, [[x, y], [toX, toY] = [x, y]]) {
  const radius = Math.hypot(toX - x, toY - y);
  return CORNERS[shape].map(([across, down]) => [x + radius * across, y + radius * down]);
}
