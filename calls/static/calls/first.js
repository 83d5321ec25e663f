// The first time on this device: would a call be heard here? Asked until the person has answered, or would rather not.
import { gettext } from "./text.js";

const KEY = "ring.tried";

export class First {
  #document;
  #storage;

  // play(): rings once, as a call would
  constructor(document, { play, storage }) {
    this.#document = document;
    this.#storage = storage;
    this.#on("play", () => {
      play();
      this.#say(gettext("Did you hear the ring?"));
      this.#show("heard", "silent");
    });
    this.#on("heard", () => this.#end());
    this.#on("later", () => this.#end());
    this.#on("silent", () => {
      this.#say(gettext("Turn the volume up, and see that this tab is not muted. Then play the ring again, or choose another speaker."));
      this.#show("play", "speaker");
    });
    this.#id("first").hidden = this.#tried();
  }

  // Focus stays where it is needed next.
  #show(...names) {
    for (const name of ["play", "heard", "silent", "speaker"]) this.#id(`first-${name}`).hidden = !names.includes(name);
    this.#id(`first-${names[0]}`).focus();
  }

  #say(words) {
    this.#id("first-words").textContent = words;
  }

  #end() {
    this.#id("first").hidden = true;
    this.#id("people-title").focus();
    try {
      this.#storage.setItem(KEY, "1");
    } catch {
      // storage is forbidden: it is asked again next time
    }
  }

  #tried() {
    try {
      return this.#storage.getItem(KEY) !== null;
    } catch {
      return false;
    }
  }

  #on(name, action) {
    this.#id(`first-${name}`).addEventListener("click", action);
  }

  #id(id) {
    return this.#document.getElementById(id);
  }
}
