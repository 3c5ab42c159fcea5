// Runs before the first paint, so that a dark page never flashes white and the language is right from the start. The
// account's own choice, which the server writes into the document, comes before what this browser remembers, but not before
// a choice that the server has not confirmed.
(function () {
  var root = document.documentElement;
  var theme = root.dataset.theme;
  var lang = root.dataset.language;
  try {
    var unkept = JSON.parse(localStorage.getItem("fust.unkept") || "{}");
    theme = unkept.theme || theme;
    lang = unkept.language || lang;
    theme = theme || localStorage.getItem("fust.theme");
    lang = lang || localStorage.getItem("fust.lang");
  } catch (_) {
    // Storage may be refused; the system's theme and the browser's language are then used.
  }
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  else delete root.dataset.theme;
  root.lang = /^zh\b/i.test(lang || (navigator.languages || [navigator.language])[0] || "en") ? "zh-CN" : "en";
})();
