/* The playground: sends a chat or an image request by fetch and shows the answer as it comes. Whatever a model or an error
   says becomes a text node, never HTML. */
"use strict";

(() => {
  const ADVICE = {
    insufficient_quota: "The month's quota or your credits do not cover this call: choose a cheaper model, ask for fewer tokens, or ask the admin for more.",
    request_too_large: "Send less at once, or ask for fewer tokens.",
    context_length_exceeded: "Begin a new conversation, or shorten the message.",
    model_not_found: "Choose another model.",
    provider_unavailable: "Choose another model, or tell the admin.",
  };

  const part = (form, role) => form.querySelector(`[data-role="${role}"]`);

  const shown = (tag, text, name) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (name) made.className = name;
    return made;
  };

  const isAtEnd = (place) => place.scrollHeight - place.scrollTop - place.clientHeight < 40;

  const tell = (form, text) => {
    const problem = part(form, "problem");
    problem.textContent = text;
    problem.hidden = !text;
  };

  const advised = (error, wait) => {
    const message = error.message || "The call failed.";
    // Limits say themselves when to come back.
    const again = wait && !message.includes("Try again") ? `Send it again in ${wait} s.` : "";
    return [message, again || ADVICE[error.code]].filter(Boolean).join(" ");
  };

  /* What the answer's headers say of the call, with a link to its entry. */
  const facts = (form, answer) => {
    const place = part(form, "facts");
    const said = (name) => answer.headers.get(name);
    const words = [];
    if (said("x-gateway-model")) words.push(`${answer.ok ? "Answered by" : "Asked of"} ${said("x-gateway-model")}`);
    if (said("x-gateway-downgraded-from")) {
      words.push(`instead of ${said("x-gateway-downgraded-from")} (${said("x-gateway-downgrade-reason")})`);
    }
    if (said("x-gateway-clamped-max-tokens")) words.push(`at most ${said("x-gateway-clamped-max-tokens")} tokens`);
    if (said("x-gateway-payer")) words.push(`paid by ${said("x-gateway-payer").replaceAll("_", " ")}`);
    if (said("x-gateway-cost-usd")) words.push(`cost $${said("x-gateway-cost-usd")}`);
    place.replaceChildren(document.createTextNode(words.join(", ")));
    const id = said("x-request-id");
    if (id && words.length) {
      const link = shown("a", "its call");
      link.href = `/dashboard/me/calls/${encodeURIComponent(id)}`;
      place.append(" · ", link);
    }
  };

  /* What a stream cost is known when it has ended: the call's own page says it then. */
  const addCost = async (form) => {
    const place = part(form, "facts");
    const link = place.querySelector("a");
    if (!link) return;
    const answer = await fetch(link.href);
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const cost = page.querySelector('[data-role="cost"]');
    if (cost) place.prepend(`Cost ${cost.textContent}. `);
  };

  /* The answer, or null where it was refused and that has been told. */
  const ask = async (form, body, signal) => {
    const answer = await fetch(form.action, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
    if (answer.redirected) {
      window.location.assign(answer.url); // the session is over
      return null;
    }
    facts(form, answer);
    if (answer.ok) return answer;
    let error = {};
    try {
      error = (await answer.json()).error || {};
    } catch {
      error = { message: `The gateway answered ${answer.status}.` };
    }
    tell(form, advised(error, answer.headers.get("retry-after")));
    return null;
  };

  /* Calls `take` with the data of each event of a stream. */
  const events = async (answer, take) => {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) take(line.slice(5).trim());
      }
    }
  };

  /* Runs `work(signal)`; while it lasts, the form cannot be sent and may be stopped. */
  const busy = async (form, work) => {
    const [send, stop] = [form.querySelector("[type=submit]"), part(form, "stop")];
    if (send.disabled) return; // keys send as well as the button
    const aborter = new AbortController();
    const abort = () => aborter.abort();
    tell(form, "");
    part(form, "facts").replaceChildren();
    stop.hidden = false;
    if (document.activeElement === send) stop.focus(); // a button that is switched off has no focus to keep
    send.disabled = true;
    stop.addEventListener("click", abort);
    try {
      await work(aborter.signal);
    } catch (error) {
      const stopped = "Stopped. What was answered until then is charged.";
      tell(form, error.name === "AbortError" ? stopped : "The connection to the gateway broke. Your calls tell what was charged.");
    } finally {
      stop.removeEventListener("click", abort);
      send.disabled = false;
      if (document.activeElement === stop) form.querySelector("textarea[required]").focus({ preventScroll: true });
      stop.hidden = true;
    }
  };

  const number = (input) => (input.value === "" ? undefined : Number(input.value));

  const chat = (form) => {
    const fields = form.elements;
    const talk = part(form, "talk");
    let messages = [];

    const turn = (role, text) => {
      const place = shown("div", "", `turn turn-${role}`);
      const said = shown("p", text, "said");
      place.append(shown("p", role === "user" ? "You" : "Model", "label"), said);
      talk.append(place);
      talk.scrollTop = talk.scrollHeight;
      return said;
    };

    const ended = (place, text, isWhole) => {
      const label = place.previousElementSibling;
      if (!isWhole) label.textContent = "Model, cut short";
      else if (!text) place.replaceChildren(shown("em", "It answered without text, with a call of a tool for example."));
    };

    const send = async (signal) => {
      const asked = { role: "user", content: fields.message.value };
      const body = {
        model: fields.model.value,
        system: fields.system.value,
        messages: [...messages, asked],
        temperature: number(fields.temperature),
        max_tokens: number(fields.max_tokens),
        stream: fields.stream.checked,
      };
      const answer = await ask(form, body, signal);
      if (answer === null) return;
      const before = messages;
      const question = turn("user", asked.content);
      fields.message.value = "";
      const place = turn("assistant", "");
      let [text, isWhole] = ["", false];
      const add = (more) => {
        const follows = isAtEnd(talk); // whoever reads further up is left there
        text += more;
        place.append(document.createTextNode(more));
        if (follows) talk.scrollTop = talk.scrollHeight;
      };
      talk.setAttribute("aria-busy", "true"); // it is read aloud when it is there, not word by word
      try {
        let error = null;
        if ((answer.headers.get("content-type") || "").startsWith("text/event-stream")) {
          await events(answer, (data) => {
            if (data === "[DONE]") return;
            const event = JSON.parse(data);
            error = event.error || error;
            add(event.choices?.[0]?.delta?.content || "");
          });
          if (error) tell(form, advised(error));
          isWhole = !error;
          await addCost(form);
        } else {
          add((await answer.json()).choices?.[0]?.message?.content || "");
          isWhole = true;
        }
      } finally {
        talk.removeAttribute("aria-busy");
        ended(place, text, isWhole);
        // A conversation goes on with what was said, also where that was cut short; not with what an earlier one said.
        if (messages === before && text) messages = [...before, asked, { role: "assistant", content: text }];
        else if (messages === before && !isWhole) {
          for (const said of [question, place]) said.parentElement.remove();
          if (!fields.message.value) fields.message.value = asked.content; // to be sent again
        }
      }
    };

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      busy(form, send);
    });
    fields.message.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    part(form, "clear").addEventListener("click", () => {
      part(form, "stop").click();
      messages = [];
      talk.replaceChildren();
      part(form, "facts").replaceChildren();
      tell(form, "");
    });
  };

  const image = (form) => {
    const fields = form.elements;

    /* Signed URLs are of this host, under whatever name the gateway gives itself; others the page may not load. */
    const place = (entry) => {
      if (entry.b64_json) return `data:image/png;base64,${entry.b64_json}`;
      const url = new URL(entry.url, window.location.href);
      return url.pathname.startsWith("/assets/") ? url.pathname + url.search : null;
    };

    const make = async (signal) => {
      const prompt = fields.prompt.value;
      const answer = await ask(form, { model: fields.model.value, prompt, size: fields.size.value }, signal);
      if (answer === null) return;
      const made = ((await answer.json()).data || []).map((entry) => {
        const source = place(entry);
        if (source === null) {
          const link = shown("a", "The provider keeps the image");
          // Any other scheme is no address of an image.
          if (/^https?:\/\//i.test(entry.url)) link.href = entry.url;
          link.rel = "noreferrer";
          return link;
        }
        const picture = document.createElement("img");
        picture.alt = prompt;
        picture.src = source;
        return picture;
      });
      part(form, "image").replaceChildren(...made);
    };

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      busy(form, make);
    });
  };

  for (const [id, start] of [["playground-chat", chat], ["playground-image", image]]) {
    const form = document.getElementById(id);
    if (form) start(form);
  }
})();
