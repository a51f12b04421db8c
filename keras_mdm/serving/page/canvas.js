// The start picture, and the mask that is painted on it: by mouse, finger, pen or keyboard.

const SHOWN = 320; // pixels of the canvas along the longer side

export class Editor {
  constructor(canvas, brush) {
    this.canvas = canvas;
    this.brush = brush;
    this.paints = true;
    this.size = { width: 64, height: 64 };
    this.source = null;
    this.layer = document.createElement("canvas");
    this.painted = false;
    this.cursor = null;
    this.last = null;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => { this.last = null; });
    }
    canvas.addEventListener("pointerleave", () => { this.cursor = null; this.show(); });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  // The size that the model draws, and whether masks are possible.
  fit(size, paints) {
    this.size = size;
    this.paints = paints;
    this.canvas.classList.toggle("still", !paints);
  }

  // Take a picture: cut to the model's proportions from its middle.
  async take(blob) {
    const picture = await createImageBitmap(blob);
    const { width, height } = this.size;
    const scale = Math.max(width / picture.width, height / picture.height);
    const cut = { width: width / scale, height: height / scale };
    this.source = document.createElement("canvas");
    Object.assign(this.source, this.size);
    const context = this.source.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, (picture.width - cut.width) / 2, (picture.height - cut.height) / 2,
      cut.width, cut.height, 0, 0, width, height);
    const enlarged = SHOWN / Math.max(width, height);
    for (const each of [this.canvas, this.layer]) {
      each.width = Math.round(width * enlarged);
      each.height = Math.round(height * enlarged);
    }
    this.clear();
  }

  drop() {
    this.source = null;
    this.painted = false;
  }

  clear() {
    this.layer.getContext("2d").clearRect(0, 0, this.layer.width, this.layer.height);
    this.painted = false;
    this.show();
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.last = this.place(event);
    this.dab(this.last);
  }

  move(event) {
    this.cursor = this.place(event);
    if (this.last) {
      this.dab(this.cursor);
      this.last = this.cursor;
    }
    this.show();
  }

  key(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const middle = { x: this.canvas.width / 2, y: this.canvas.height / 2 };
    if (event.key in ways) {
      const [x, y] = ways[event.key];
      const at = this.cursor ?? middle;
      this.cursor = {
        x: Math.min(this.canvas.width, Math.max(0, at.x + 8 * x)),
        y: Math.min(this.canvas.height, Math.max(0, at.y + 8 * y)),
      };
      this.last = null;
      this.show();
    } else if (event.key === " ") {
      this.last = null;
      this.dab(this.cursor ?? middle);
    } else if (event.key === "Backspace") {
      this.clear();
    } else {
      return;
    }
    event.preventDefault();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: (event.clientX - box.left) * this.canvas.width / box.width,
      y: (event.clientY - box.top) * this.canvas.height / box.height,
    };
  }

  dab(at) {
    if (!this.paints || !this.source) return;
    const context = this.layer.getContext("2d");
    const radius = Number(this.brush.value) * SHOWN / 160;
    context.strokeStyle = context.fillStyle = "#fff";
    context.lineWidth = 2 * radius;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(this.last?.x ?? at.x, this.last?.y ?? at.y);
    context.lineTo(at.x, at.y);
    context.stroke();
    this.painted = true;
    this.show();
  }

  show() {
    if (!this.source) return;
    const context = this.canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(this.source, 0, 0, this.canvas.width, this.canvas.height);
    context.save();
    context.globalAlpha = 0.55;
    const tint = document.createElement("canvas");
    Object.assign(tint, { width: this.layer.width, height: this.layer.height });
    const paint = tint.getContext("2d");
    paint.drawImage(this.layer, 0, 0);
    paint.globalCompositeOperation = "source-in";
    paint.fillStyle = "#7a2bd6";
    paint.fillRect(0, 0, tint.width, tint.height);
    context.drawImage(tint, 0, 0);
    context.restore();
    if (this.cursor && this.paints) {
      context.beginPath();
      context.arc(this.cursor.x, this.cursor.y, Number(this.brush.value) * SHOWN / 160, 0, 7);
      context.strokeStyle = "#7a2bd6";
      context.stroke();
    }
  }

  // The picture and the mask as base64 of PNG files; no mask unless some of it is painted.
  files() {
    if (!this.source) return {};
    const found = { init_image: base64(this.source) };
    if (this.paints && this.painted) {
      const mask = document.createElement("canvas");
      Object.assign(mask, this.size);
      const context = mask.getContext("2d");
      context.fillStyle = "#000";
      context.fillRect(0, 0, mask.width, mask.height);
      context.drawImage(this.layer, 0, 0, mask.width, mask.height);
      found.mask = base64(mask);
    }
    return found;
  }
}

function base64(canvas) {
  return canvas.toDataURL("image/png").split(",")[1];
}
