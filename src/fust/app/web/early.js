// Runs before the first paint, so that a dark page never flashes white and the language is right from the start.
(function () {
  var root = document.documentElement;
  try {
    var theme = localStorage.getItem("fust.theme");
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    var lang = localStorage.getItem("fust.lang") || (navigator.languages || [navigator.language])[0] || "en";
    root.lang = /^zh\b/i.test(lang) ? "zh-CN" : "en";
  } catch (_) {
    // Storage may be refused; the system's theme and English are then used.
  }
})();
