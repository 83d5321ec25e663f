// For browsers that know no modules: says so. They run this file and nothing else.
document.addEventListener("DOMContentLoaded", function () {
  document.getElementById("too-old").hidden = false;
});
