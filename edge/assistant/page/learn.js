// Whether nearfar may learn from far answers: asked once, in a line that covers nothing and waits.

const $ = (id) => document.getElementById(id);

/** The question; `choose` is called with the reply, "on" or "off". */
export class LearnQuestion {
  constructor(choose) {
    this.seen = false; // a far answer, on this page
    for (const reply of ["on", "off"]) $(`learn-${reply}`).addEventListener("click", () => choose(reply));
  }

  /** Take notice of an answer that has ended. */
  saw({ route }) {
    this.seen ||= route?.served_by === "cloud";
  }

  /** Show the question where it is still to be asked. */
  stand({ asks_to_learn: asks }) {
    $("learn").hidden = !(asks && this.seen);
  }
}
