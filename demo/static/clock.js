// Lets the clock of the frame "The times of this session" tick, by the server's time.
// Without it the frame says what was right when it was written.
"use strict";

const written = Number(document.documentElement.dataset.now);
const start = performance.now();

function tick() {
  const now = Math.floor(written + (performance.now() - start) / 1000);
  document.getElementById("clock").textContent =
    new Date(now * 1000).toISOString().slice(0, 19).replace("T", " ") + " UTC";
  for (const element of document.querySelectorAll("[data-until]")) {
    const left = Number(element.dataset.until) - now;
    if (element.matches("progress")) {
      element.value = Math.max(left, 0);
    } else if ("over" in element.dataset) {
      element.textContent = left >= 0 ? `${left} s` : element.dataset.over;
    } else {
      element.hidden = left < 0;
    }
  }
  for (const element of document.querySelectorAll("[data-from]")) {
    element.hidden = now < Number(element.dataset.from);
  }
}

tick();
setInterval(tick, 200);
