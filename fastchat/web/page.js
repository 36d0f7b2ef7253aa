// Light or dark: what the reader chose last, else what the system says.
(() => {
  const KEY = "fastchat-theme";
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => {
    try { return localStorage.getItem(KEY); } catch { return null; }
  };
  const show = () => {
    const dark = chosen() ? chosen() === "dark" : system.matches;
    document.body.classList.toggle("dark", dark);
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
  };
  const start = () => {
    show();
    // The library sets its own idea of the theme while it mounts; ours is the last word.
    const mounted = new MutationObserver(() => {
      if (!document.querySelector("[data-theme-switch]")) return;
      mounted.disconnect();
      show();
      // Whoever came for the board asks no model.
      if (!new URLSearchParams(location.search).has("leaderboard"))
        document.getElementById("terms")?.showModal();
    });
    mounted.observe(document.body, { childList: true, subtree: true });
    system.addEventListener("change", show);
  };
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("[data-theme-switch]")) return;
    const next = document.body.classList.contains("dark") ? "light" : "dark";
    try { localStorage.setItem(KEY, next); } catch { /* private mode: for this page only */ }
    document.body.classList.toggle("dark", next === "dark");
    document.documentElement.style.colorScheme = next;
  });
  // The link to a shared conversation: shown whole, and copied when it is pressed.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-share]");
    if (link) navigator.clipboard?.writeText(link.href).catch(() => {});
  });
  // markdown.py writes these as entities where they are no markup; copies get them back.
  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) =>
      write(text.replaceAll("&#60;", "<").replaceAll("&#36;", "$").replaceAll("&#33;", "!"));
  }
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
