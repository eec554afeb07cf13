/* The console's own script: theme, freshness of live panels, dialogs, copying.
   Every page works without it; it only adds. No inline code, nothing evaluated. */
(() => {
  "use strict";

  // --- theme: before the first paint -------------------------------------------------------------
  const THEMES = ["system", "light", "dark"];
  const root = document.documentElement;
  const darkWish = window.matchMedia("(prefers-color-scheme: dark)");

  function chosenTheme() {
    try {
      const kept = localStorage.getItem("waypost-theme");
      return THEMES.includes(kept) ? kept : "system";
    } catch {
      return "system"; // storage may be forbidden; the choice then lasts for the page
    }
  }

  let theme = chosenTheme();
  function applyTheme() {
    const dark = theme === "dark" || (theme === "system" && darkWish.matches);
    root.dataset.bsTheme = dark ? "dark" : "light";
    const word = document.querySelector("[data-theme-word]");
    if (word) word.textContent = `Theme: ${theme}`;
  }
  applyTheme();
  darkWish.addEventListener("change", applyTheme);

  function nextTheme() {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try {
      localStorage.setItem("waypost-theme", theme);
    } catch {
      // kept for this page only
    }
    applyTheme();
  }

  // --- times: counted on between refreshes -------------------------------------------------------
  function ago(seconds) {
    if (seconds < 0) return "just now";
    if (seconds < 60) return `${Math.floor(seconds)} s ago`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
    const days = Math.floor(seconds / 86400);
    return days === 1 ? "1 day ago" : `${days} days ago`;
  }

  // The server's clock decides: this one may be wrong by hours.
  let serverAhead = 0;
  function learnClock(xhr) {
    const at = Date.parse(xhr.getResponseHeader("Date") || "");
    if (!Number.isNaN(at)) serverAhead = at - Date.now();
  }

  function countTimes() {
    const now = Date.now() + serverAhead;
    for (const time of document.querySelectorAll("time[data-ago]")) {
      const words = ago((now - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== words) time.textContent = words;
    }
  }

  // --- live panels: fresh, stale, paused, final --------------------------------------------------
  const STALE_AFTER_MS = 10000;
  let refreshedAt = Date.now();
  let failing = false;
  let over = false;

  const livePanel = () => document.querySelector("[data-live][hx-get]");
  const isLive = (element) => element instanceof Element && element.hasAttribute("data-live");

  function showFreshness() {
    const line = document.querySelector("[data-updated]");
    const banner = document.getElementById("stale");
    if (!line || !livePanel()) return;
    if (over) {
      line.textContent = "This can no longer change.";
      banner.hidden = true;
      return;
    }
    const age = Date.now() - refreshedAt;
    line.textContent = `Updated ${ago(age / 1000)}`;
    const stale = failing && age > STALE_AFTER_MS;
    if (stale && banner.hidden) {
      const at = new Date(refreshedAt + serverAhead).toISOString().slice(11, 19);
      banner.querySelector("[data-stale-text]").textContent =
        `This page has not been refreshed since ${at} UTC: the control plane does not answer. It goes on trying.`;
    }
    banner.hidden = !stale;
  }

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (isLive(event.detail.elt) && document.hidden) event.preventDefault();
  });
  document.addEventListener("htmx:configRequest", (event) => {
    if (isLive(event.detail.elt)) event.detail.headers["If-None-Match"] = event.detail.elt.dataset.etag;
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!isLive(event.detail.elt)) return;
    const { xhr, elt } = event.detail;
    const answered = xhr.status >= 200 && xhr.status < 400;
    failing = !answered;
    if (answered) {
      learnClock(xhr);
      refreshedAt = Date.now();
      elt.dataset.etag = xhr.getResponseHeader("ETag") || "";
      over = xhr.status === 286;
    }
    showFreshness();
  });
  document.addEventListener("htmx:afterSettle", countTimes);
  document.addEventListener("visibilitychange", () => {
    const panel = livePanel();
    if (!document.hidden && panel && !over) window.htmx?.trigger(panel, "waypost:refresh");
  });

  // --- dialogs: the page of a verb, shown in place -----------------------------------------------
  async function openDialog(link) {
    const dialog = document.getElementById("dialog");
    try {
      await window.htmx.ajax("GET", link.href, { target: dialog, swap: "innerHTML" });
    } catch {
      dialog.replaceChildren();
    }
    if (!dialog.firstElementChild) {
      window.location.assign(link.href); // the page itself says what is wrong
      return;
    }
    if (!dialog.open) dialog.showModal();
    (dialog.querySelector("[autofocus]") || dialog.querySelector("a, button"))?.focus();
  }

  // A refused form comes back in place: its first fault is where the reader wants to be.
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "dialog") return;
    event.detail.target.querySelector("[aria-invalid=true], a, button")?.focus();
  });

  async function copy(button) {
    const text = document.getElementById(button.dataset.copy).textContent;
    const word = button.querySelector("span");
    try {
      await navigator.clipboard.writeText(text.trim());
      word.textContent = "Copied";
    } catch {
      window.getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      word.textContent = "Selected";
    }
    setTimeout(() => { word.textContent = "Copy"; }, 2000);
  }

  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element)) return;
    const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey;
    const dialogLink = event.target.closest("a[data-dialog]");
    if (dialogLink && plain && window.htmx) {
      event.preventDefault();
      openDialog(dialogLink);
      return;
    }
    const dialog = event.target.closest("dialog");
    if (dialog && event.target.closest("[data-close]")) {
      event.preventDefault();
      dialog.close();
      return;
    }
    const copyButton = event.target.closest("[data-copy]");
    if (copyButton) copy(copyButton);
    if (event.target.closest("[data-theme-toggle]")) nextTheme();
    for (const menu of document.querySelectorAll("details.wp-menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === " " && event.target.matches?.("a[role=button]")) {
      event.preventDefault();
      event.target.click();
    }
    if (event.key !== "Escape") return;
    for (const menu of document.querySelectorAll("details.wp-menu[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });

  document.addEventListener("DOMContentLoaded", () => {
    applyTheme();
    for (const element of document.querySelectorAll("[data-theme-toggle], [data-copy]")) {
      element.hidden = false;
    }
    showFreshness();
    setInterval(() => { countTimes(); showFreshness(); }, 1000);
  });
})();
