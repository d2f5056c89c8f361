// Answers the pages of clients that ask whether the login changed (OpenID Connect Session Management 1.0, section 3.2).
"use strict";
(() => {
  const { state, near } = document.currentScript.dataset;
  addEventListener("message", async (event) => {
    if (event.source === window || typeof event.data !== "string" || !event.source) return;
    const say = (verdict) => event.source.postMessage(verdict, event.origin);
    const blank = event.data.lastIndexOf(" ");
    if (near === "false" || blank < 1 || event.origin === "null") return say("error");
    const asked = new URLSearchParams({
      client_id: event.data.slice(0, blank),
      session_state: event.data.slice(blank + 1),
      origin: event.origin,
    });
    if (near === "elsewhere") asked.set("elsewhere", "1");
    try {
      const answer = await fetch(`${state}?${asked}`, { cache: "no-store" });
      // A server that is busy says nothing about the login.
      if (answer.ok) say(await answer.text());
    } catch {
      // Offline: the next question will tell.
    }
  });
})();
