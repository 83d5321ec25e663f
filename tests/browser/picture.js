// A camera for the documentation's pictures: somebody in front of a wall, in the colours of `who`.
const COLOURS = {
  alice: { wall: ["#f3d9c4", "#d9a88a"], shirt: "#2f6f73", skin: "#e9b999", hair: "#5a3426", long: 1 },
  carol: { wall: ["#d7e6d0", "#9dbb93"], shirt: "#7a4a8c", skin: "#8d5b3f", hair: "#1f1a17", long: 1 },
  bob: { wall: ["#c9d8ea", "#7f9cc0"], shirt: "#c46a3d", skin: "#b67f5c", hair: "#22201f", long: 0 },
};

function paint(pen, { wall, shirt, skin, hair, long }, time) {
  const { width: w, height: h } = pen.canvas;
  const light = pen.createLinearGradient(0, 0, w, h);
  light.addColorStop(0, wall[0]);
  light.addColorStop(1, wall[1]);
  pen.fillStyle = light;
  pen.fillRect(0, 0, w, h);
  pen.fillStyle = "rgb(255 255 255 / 22%)";
  pen.beginPath();
  pen.roundRect(w * 0.07, -h * 0.1, w * 0.2, h * 0.62, 12);
  pen.roundRect(w * 0.8, h * 0.16, w * 0.13, h * 0.2, 10);
  pen.fill();
  const sway = Math.sin(time / 900) * h * 0.006;
  const round = (x, y, rx, ry, colour) => {
    pen.fillStyle = colour;
    pen.beginPath();
    pen.ellipse(x + sway, y, rx, ry, 0, 0, 7);
    pen.fill();
  };
  const x = w / 2;
  round(x, h * (0.43 + 0.05 * long), h * (0.19 + 0.04 * long), h * (0.2 + 0.08 * long), hair);
  round(x, h * 1.12, h * 0.44, h * 0.38, shirt);
  pen.fillStyle = skin;
  pen.fillRect(x - h * 0.075 + sway, h * 0.6, h * 0.15, h * 0.17);
  round(x, h * 0.77, h * 0.11, h * 0.05, skin);
  round(x, h * 0.48, h * 0.175, h * 0.215, skin);
  pen.fillStyle = hair;
  pen.beginPath();
  pen.ellipse(x + sway, h * 0.37, h * (0.186 + 0.014 * long), h * 0.14, 0, Math.PI * 0.97, Math.PI * 2.03);
  pen.fill();
  for (const side of [-1, 1]) round(x + side * h * 0.068, h * 0.48, h * 0.014, h * 0.018, "#2a1f1a");
  pen.strokeStyle = "#8d3f3a";
  pen.lineWidth = h * 0.011;
  pen.lineCap = "round";
  pen.beginPath();
  pen.arc(x + sway, h * 0.555, h * 0.055, 0.25, Math.PI - 0.25);
  pen.stroke();
}

const ask = navigator.mediaDevices?.getUserMedia.bind(navigator.mediaDevices);
if (ask) {
  navigator.mediaDevices.getUserMedia = async (wish) => {
    const real = wish.audio ? (await ask({ audio: wish.audio })).getTracks() : [];
    if (!wish.video) return new MediaStream(real);
    const canvas = Object.assign(document.createElement("canvas"), { width: 960, height: 720 });
    const pen = canvas.getContext("2d");
    setInterval(() => paint(pen, COLOURS[window.who], performance.now()), 150);
    return new MediaStream([...real, ...canvas.captureStream(7).getTracks()]);
  };
}
