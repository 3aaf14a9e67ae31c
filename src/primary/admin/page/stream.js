// The connection to croupier: GET /events, opened anew whenever it ends or falls silent, until the page is closed.

// Statuses come every second.
const SILENCE_MILLISECONDS = 5000;
const RETRY_MILLISECONDS = 1000;

// `listener` has opened(), status(status), event(text), output(line), skipped(count) and lost().
export function listen(listener) {
  let source;
  let silence;
  const stayAwake = () => {
    clearTimeout(silence);
    silence = setTimeout(again, SILENCE_MILLISECONDS);
  };
  const again = () => {
    clearTimeout(silence);
    source.close();
    listener.lost();
    setTimeout(open, RETRY_MILLISECONDS);
  };
  const open = () => {
    source = new EventSource("events?with=status,output");
    source.onopen = listener.opened;
    // The browser would try again by itself after some ends, but not after others.
    source.onerror = again;
    source.onmessage = ({ data }) => listener.event(data);
    source.addEventListener("status", ({ data }) => {
      stayAwake();
      listener.status(JSON.parse(data));
    });
    source.addEventListener("output", ({ data }) => listener.output(JSON.parse(data)));
    source.addEventListener("lost", ({ data }) => listener.skipped(JSON.parse(data).count));
    stayAwake();
  };
  open();
}
