// Each slider moves the pictures of its figure: strips of images, and points with their trails and contours.
for (const figure of document.querySelectorAll(".moving")) {
  const slider = figure.querySelector("input");
  const output = figure.querySelector("output");
  const times = slider.dataset.times.split(" ");
  const source = figure.querySelector("script");
  const data = source ? JSON.parse(source.textContent) : { points: [], contours: [] };
  const points = figure.querySelectorAll(".point, .symbol");
  const trails = figure.querySelectorAll(".trail");
  const contours = figure.querySelectorAll(".contour");

  function show() {
    const frame = Number(slider.value);
    output.textContent = "t = " + times[frame];
    slider.setAttribute("aria-valuetext", output.textContent);
    figure.style.setProperty("--frame", frame);
    contours.forEach((path, level) => path.setAttribute("d", data.contours[frame][level]));
    points.forEach((point, number) => {
      const path = data.points[number];
      const [x, y] = point.tagName === "circle" ? ["cx", "cy"] : ["x", "y"];
      point.setAttribute(x, path[2 * frame]);
      point.setAttribute(y, path[2 * frame + 1]);
      if (trails[number]) {
        trails[number].setAttribute("points", path.slice(0, 2 * frame + 2).join(" "));
      }
    });
  }

  slider.addEventListener("input", show);
  show();
}
