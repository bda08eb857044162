// A run that goes on: the page is loaded anew when the run has moved. Without scripts the reader reloads it.
"use strict";
(() => {
  const shown = document.querySelector("[data-live]");
  if (!shown) return;
  const look = async () => {
    const answer = await fetch(location.pathname, { credentials: "same-origin" });
    if (answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const now = page.querySelector("[data-live]");
      const typing = document.activeElement && document.activeElement.matches("input");
      if ((!now || now.dataset.live !== shown.dataset.live) && !typing) {
        location.reload();
        return;
      }
    }
    setTimeout(look, 1000);
  };
  setTimeout(look, 1000);
})();
