// "This session ends in 90 s": shown in its last two minutes. Shortly before the end it
// asks the server, since another tab may have used the session. Asking doesn't extend it.
"use strict";

const WARN = 120;
const ASK = 10;

const banner = document.getElementById("countdown");
let expires = Number(banner.dataset.expires);
let ahead = Number(banner.dataset.now) - Date.now() / 1000;
let isAsking = false;

async function ask() {
  isAsking = true;
  try {
    const response = await fetch(banner.dataset.url);
    const answer = await response.json();
    ahead = answer.now - Date.now() / 1000;
    if (answer.expires) {
      expires = answer.expires;
    } else {
      clearInterval(ticking);
      banner.textContent = "This session is over. The next page starts a new one.";
    }
  } finally {
    setTimeout(() => { isAsking = false; }, 2000);
  }
}

function tick() {
  const left = Math.floor(expires + 1 - (Date.now() / 1000 + ahead));
  banner.hidden = left > WARN;
  banner.textContent = `This session ends in ${Math.max(left, 0)} s, unless you use it.`;
  if (left <= ASK && !isAsking) {
    ask();
  }
}

const ticking = expires ? setInterval(tick, 250) : null;
