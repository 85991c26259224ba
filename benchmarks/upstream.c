/* A mock of an OpenAI chat upstream: one thread, epoll, HTTP/1.1 with keep-alive.
 *
 * It must never be the slowest part of a benchmark, so every answer is rendered once at the start and an event costs
 * one send() of ready bytes. One event is one send() and one HTTP chunk, because that is how providers flush.
 *
 *   POST (any path)  a JSON answer of about 700 bytes with usage, or server-sent events when the body asks to stream
 *   GET /stats       {"requests":N,"connections":N}: calls answered and connections accepted since the start
 *
 * The model's name sets the timing: "...f200d10n64" is 200 ms to the first byte, then one of 64 content events every
 * 10 ms. Any other name answers at once with 64 events. With `include_usage` each event carries `"usage":null` and
 * one more event brings the usage, as OpenAI does it.
 *
 * Usage: upstream [port]. Port 0 (the default) takes a free one; the line {"port":N} on stdout says which. Listens on
 * 127.0.0.1 only, ends with the process that started it, and after LIFETIME_S in any case.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    LIFETIME_S = 4 * 3600,
    REQUEST_BYTES_MAX = 1 << 20,
    EVENTS_MAX = 1 << 16,
    DELAY_MS_MAX = 60 * 1000,
    WHEEL_SLOTS = 1024, /* one slot a millisecond; a later deadline stays in its slot for another turn */
    WORDS = 8,
    READY_MAX = 256,
};

/* ---- ready-made bytes ---------------------------------------------------------------------------------------- */

typedef struct {
    char bytes[1024];
    size_t length;
} Frame;

#define ID "chatcmpl-C8mockXq2TzVbN4rLw7yKdHs"
#define EVENT_HEAD                                                                                                     \
    "data: {\"id\":\"" ID "\",\"object\":\"chat.completion.chunk\",\"created\":1763600000,\"model\":\"mock-1\","         \
    "\"service_tier\":\"default\",\"system_fingerprint\":\"fp_b3f1c09ad2\",\"choices\":["

static const char STREAM_HEAD[] = "HTTP/1.1 200 OK\r\n"
                                  "content-type: text/event-stream; charset=utf-8\r\n"
                                  "cache-control: no-cache\r\n"
                                  "x-request-id: req_mock\r\n"
                                  "transfer-encoding: chunked\r\n\r\n";

static const char ANSWER[] =
    "{\"id\":\"" ID "\",\"object\":\"chat.completion\",\"created\":1763600000,\"model\":\"mock-1\","
    "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"It leaps over the dog that lies in the "
    "sun, rests for a moment on the far side, and then comes back to do the whole thing again.\",\"refusal\":null,"
    "\"annotations\":[]},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
    "\"usage\":{\"prompt_tokens\":57,\"completion_tokens\":26,\"total_tokens\":83,"
    "\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},"
    "\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0,"
    "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}},"
    "\"service_tier\":\"default\",\"system_fingerprint\":\"fp_b3f1c09ad2\"}";

static const char *const VOCABULARY[WORDS] = {" It", " leaps", " over", " the", " dog", " that", " lies", " there"};

/* Indexed by whether the caller asked for usage. */
static Frame role_frames[2], word_frames[2][WORDS], stop_frames[2];
static Frame done_frame, answer_frame;

/* Wraps one event into one HTTP chunk. */
static void render_event(Frame *frame, const char *event, const char *after) {
    frame->length = (size_t)snprintf(frame->bytes, sizeof frame->bytes, "%zx\r\n%s\r\n%s", strlen(event), event, after);
    if (frame->length >= sizeof frame->bytes) abort();
}

static void render_choice(Frame *frame, const char *delta, const char *finish_reason, bool usage) {
    char event[900];
    snprintf(event, sizeof event, EVENT_HEAD "{\"index\":0,\"delta\":{%s},\"logprobs\":null,\"finish_reason\":%s}]%s}\n\n",
             delta, finish_reason, usage ? ",\"usage\":null" : "");
    render_event(frame, event, "");
}

static void render_usage(Frame *frame, int events) {
    char event[900];
    snprintf(event, sizeof event,
             EVENT_HEAD "],\"usage\":{\"prompt_tokens\":57,\"completion_tokens\":%d,\"total_tokens\":%d,"
                        "\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},"
                        "\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0}}}\n\n",
             events, events + 57);
    render_event(frame, event, "");
}

static void render_all(void) {
    char delta[200];
    for (int usage = 0; usage < 2; usage++) {
        snprintf(delta, sizeof delta, "\"role\":\"assistant\",\"content\":\"%s\"", VOCABULARY[0]);
        render_choice(&role_frames[usage], delta, "null", usage);
        for (int word = 0; word < WORDS; word++) {
            snprintf(delta, sizeof delta, "\"content\":\"%s\"", VOCABULARY[word]);
            render_choice(&word_frames[usage][word], delta, "null", usage);
        }
        render_choice(&stop_frames[usage], "", "\"stop\"", usage);
    }
    render_event(&done_frame, "data: [DONE]\n\n", "0\r\n\r\n");
    answer_frame.length = (size_t)snprintf(answer_frame.bytes, sizeof answer_frame.bytes,
                                           "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_mock\r\n"
                                           "openai-processing-ms: 5\r\ncontent-length: %zu\r\n\r\n%s",
                                           sizeof ANSWER - 1, ANSWER);
    if (answer_frame.length >= sizeof answer_frame.bytes) abort();
}

/* ---- connections --------------------------------------------------------------------------------------------- */

typedef struct Connection {
    int fd;
    char *input; /* bytes of requests not answered yet */
    size_t input_length, input_capacity;
    char *backlog; /* bytes the socket did not take */
    size_t backlog_length, backlog_sent;

    bool answering, streaming, usage, head_sent;
    int event, events, delay_ms;

    int64_t due_ms; /* when it goes on; 0 while it waits for nothing */
    struct Connection *next, **link;
} Connection;

static int poller;
static uint64_t requests_count, connections_count;
static Connection *wheel[WHEEL_SLOTS];
static int waiting; /* connections in the wheel */

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void wheel_remove(Connection *c) {
    if (!c->due_ms) return;
    *c->link = c->next;
    if (c->next) c->next->link = c->link;
    c->due_ms = 0;
    waiting--;
}

static void wheel_add(Connection *c, int delay_ms) {
    c->due_ms = now_ms() + delay_ms;
    Connection **slot = &wheel[c->due_ms % WHEEL_SLOTS];
    c->next = *slot;
    if (c->next) c->next->link = &c->next;
    c->link = slot;
    *slot = c;
    waiting++;
}

static void watch(Connection *c, uint32_t events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
}

static void drop(Connection *c) {
    wheel_remove(c);
    close(c->fd);
    free(c->input);
    free(c->backlog);
    free(c);
}

/* Sends, keeping what the socket does not take for `flush`. False: the connection is dead. */
static bool put(Connection *c, const char *bytes, size_t length) {
    ssize_t sent = 0;
    if (!c->backlog) {
        sent = send(c->fd, bytes, length, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return false;
        if (sent < 0) sent = 0;
        if ((size_t)sent == length) return true;
    }
    size_t rest = length - (size_t)sent;
    char *grown = realloc(c->backlog, c->backlog_length + rest);
    if (!grown) return false;
    if (!c->backlog) watch(c, EPOLLIN | EPOLLOUT);
    memcpy(grown + c->backlog_length, bytes + sent, rest);
    c->backlog = grown;
    c->backlog_length += rest;
    return true;
}

static bool flush(Connection *c) {
    while (c->backlog_sent < c->backlog_length) {
        ssize_t sent = send(c->fd, c->backlog + c->backlog_sent, c->backlog_length - c->backlog_sent, MSG_NOSIGNAL);
        if (sent < 0) return errno == EAGAIN;
        c->backlog_sent += (size_t)sent;
    }
    free(c->backlog);
    c->backlog = NULL;
    c->backlog_length = c->backlog_sent = 0;
    watch(c, EPOLLIN);
    return true;
}

/* ---- answers ------------------------------------------------------------------------------------------------- */

static bool put_frame(Connection *c, const Frame *frame) { return put(c, frame->bytes, frame->length); }

/* The next event of a stream: content, then the stop, then (if asked for) the usage, then [DONE]. */
static bool put_next_event(Connection *c) {
    int at = c->event++, after_content = at - c->events;
    if (at == 0 && c->events > 0) return put_frame(c, &role_frames[c->usage]);
    if (after_content < 0) return put_frame(c, &word_frames[c->usage][at % WORDS]);
    if (after_content == 0) return put_frame(c, &stop_frames[c->usage]);
    if (after_content == 1 && c->usage) {
        Frame usage;
        render_usage(&usage, c->events);
        return put_frame(c, &usage);
    }
    c->answering = false;
    return put_frame(c, &done_frame);
}

/* Goes on with the answer until it ends, has to wait, or the client reads too slowly. False: dead. */
static bool advance(Connection *c) {
    if (!c->streaming) {
        c->answering = false;
        return put_frame(c, &answer_frame);
    }
    if (!c->head_sent) {
        c->head_sent = true;
        if (!put(c, STREAM_HEAD, sizeof STREAM_HEAD - 1)) return false;
    }
    while (c->answering && !c->backlog) {
        if (!put_next_event(c)) return false;
        if (c->answering && c->delay_ms && c->event < c->events) {
            wheel_add(c, c->delay_ms);
            break;
        }
    }
    return true;
}

/* ---- requests ------------------------------------------------------------------------------------------------ */

/* Where the value of a JSON field starts, or NULL. Inside a JSON string the quotes would be escaped, so text that
 * quotes the field's name does not match. */
static const char *field(const char *body, size_t length, const char *quoted_name) {
    const char *at = memmem(body, length, quoted_name, strlen(quoted_name));
    if (!at) return NULL;
    const char *end = body + length;
    for (at += strlen(quoted_name); at < end && (*at == ' ' || *at == ':'); at++) {}
    return at < end ? at : NULL;
}

static bool is_true(const char *body, size_t length, const char *quoted_name) {
    const char *value = field(body, length, quoted_name);
    return value && body + length - value >= 4 && !memcmp(value, "true", 4);
}

static int bounded(int value, int max) { return value < 0 ? 0 : value > max ? max : value; }

/* Reads the timing out of the model's name into `c`; returns the milliseconds to the first byte. */
static int read_timing(Connection *c, const char *body, size_t length) {
    int first_ms = 0, delay_ms = 0, events = 64;
    const char *model = field(body, length, "\"model\"");
    if (model && *model == '"') {
        size_t left = (size_t)(body + length - model - 1);
        const char *end = memchr(model + 1, '"', left);
        for (const char *p = model + 1; end && p < end; p++) {
            int f, d, n;
            if (*p == 'f' && sscanf(p, "f%dd%dn%d", &f, &d, &n) == 3) {
                first_ms = f, delay_ms = d, events = n;
                break;
            }
        }
    }
    c->delay_ms = bounded(delay_ms, DELAY_MS_MAX);
    c->events = bounded(events, EVENTS_MAX);
    return bounded(first_ms, DELAY_MS_MAX);
}

static bool answer_post(Connection *c, const char *body, size_t length) {
    requests_count++;
    c->streaming = is_true(body, length, "\"stream\"");
    c->usage = is_true(body, length, "\"include_usage\"");
    c->answering = true;
    c->head_sent = false;
    c->event = 0;
    int first_ms = read_timing(c, body, length);
    if (!first_ms) return advance(c);
    wheel_add(c, first_ms);
    return true;
}

static bool answer_get(Connection *c, bool is_stats) {
    char json[128] = "{}", answer[320];
    if (is_stats)
        snprintf(json, sizeof json, "{\"requests\":%llu,\"connections\":%llu}", (unsigned long long)requests_count,
                 (unsigned long long)connections_count);
    int length = snprintf(answer, sizeof answer,
                          "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                          is_stats ? "200 OK" : "404 Not Found", strlen(json), json);
    return put(c, answer, (size_t)length);
}

/* Length of a chunked body with its framing; 0: not all here yet. */
static size_t chunked_length(const char *body, size_t available) {
    size_t at = 0;
    for (;;) {
        const char *line_end = memmem(body + at, available - at, "\r\n", 2);
        if (!line_end) return 0;
        size_t size = strtoul(body + at, NULL, 16);
        if (size > REQUEST_BYTES_MAX) return 0; /* never completes: the bound on the input ends the connection */
        at = (size_t)(line_end - body) + 2 + size + 2;
        if (at > available) return 0;
        if (!size) return at;
    }
}

typedef struct {
    size_t head, body; /* bytes; a chunked body counts with its framing and is scanned as it is */
} Request;

/* Finds one whole request at the start of the input. False: not all of it is here. */
static bool find_request(Connection *c, Request *request) {
    char *head_end = memmem(c->input, c->input_length, "\r\n\r\n", 4);
    if (!head_end) return false;
    request->head = (size_t)(head_end - c->input) + 4;
    request->body = 0;
    size_t available = c->input_length - request->head;
    bool is_chunked = false;
    for (char *line = c->input; line < head_end;) {
        if (!strncasecmp(line, "content-length:", 15)) request->body = strtoul(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding:", 18)) is_chunked = true;
        char *line_end = memmem(line, (size_t)(head_end + 2 - line), "\r\n", 2);
        line = line_end + 2; /* there is one: the head ends with it */
    }
    if (is_chunked) {
        request->body = chunked_length(c->input + request->head, available);
        return request->body > 0;
    }
    return available >= request->body;
}

/* Answers what has arrived, one request at a time. False: dead. */
static bool handle_input(Connection *c) {
    Request request;
    while (!c->answering && !c->backlog && c->input_length && find_request(c, &request)) {
        bool alive = !strncmp(c->input, "GET ", 4)
                         ? answer_get(c, !strncmp(c->input + 4, "/stats ", 7))
                         : answer_post(c, c->input + request.head, request.body);
        if (!alive) return false;
        size_t used = request.head + request.body;
        memmove(c->input, c->input + used, c->input_length - used);
        c->input_length -= used;
        c->input[c->input_length] = 0;
    }
    return true;
}

/* ---- the loop ------------------------------------------------------------------------------------------------ */

static bool go_on(Connection *c) { return (!c->answering || advance(c)) && handle_input(c); }

static bool receive(Connection *c) {
    if (c->input_capacity - c->input_length < 2) {
        if (c->input_capacity >= REQUEST_BYTES_MAX) return false;
        char *grown = realloc(c->input, c->input_capacity * 2);
        if (!grown) return false;
        c->input = grown;
        c->input_capacity *= 2;
    }
    ssize_t got = recv(c->fd, c->input + c->input_length, c->input_capacity - c->input_length - 1, 0);
    if (got == 0) return false;
    if (got < 0) return errno == EAGAIN;
    c->input_length += (size_t)got;
    c->input[c->input_length] = 0; /* so that number parsing stops */
    return handle_input(c);
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        Connection *c = calloc(1, sizeof *c);
        if (!c || !(c->input = malloc(c->input_capacity = 4096))) exit(1);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        c->fd = fd;
        connections_count++;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
    }
}

static void serve_ready(Connection *c, uint32_t events) {
    bool alive = true;
    if (events & EPOLLOUT) {
        alive = flush(c);
        /* A stream that stopped because the client was slow has no deadline; one that waits for its delay has. */
        if (alive && !c->backlog && !c->due_ms) alive = go_on(c);
    }
    if (alive && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) alive = receive(c);
    if (!alive) drop(c);
}

/* Wakes what is due in the slots from `from` to `to`; returns where to begin next time. */
static int64_t turn_wheel(int64_t from, int64_t to) {
    if (to - from > WHEEL_SLOTS) from = to - WHEEL_SLOTS;
    for (; from <= to; from++) {
        Connection *next;
        for (Connection *c = wheel[from % WHEEL_SLOTS]; c; c = next) {
            next = c->next; /* waking touches only `c`, and a delay of at least 1 ms never lands before `next` */
            if (c->due_ms > to) continue;
            wheel_remove(c);
            if (!c->backlog && !go_on(c)) drop(c);
        }
    }
    return to + 1;
}

static int listen_on(int port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) {
        perror("upstream");
        exit(1);
    }
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("{\"port\":%d}\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    render_all();
    int listener = listen_on(argc > 1 ? atoi(argv[1]) : 0);
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ready[READY_MAX], e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    int64_t started_ms = now_ms(), next_slot = started_ms;
    while (now_ms() - started_ms < (int64_t)LIFETIME_S * 1000) {
        int count = epoll_wait(poller, ready, READY_MAX, waiting ? 1 : 1000);
        for (int i = 0; i < count; i++) {
            Connection *c = ready[i].data.ptr;
            if (c) serve_ready(c, ready[i].events);
            else accept_all(listener);
        }
        next_slot = turn_wheel(next_slot, now_ms());
    }
    return 0;
}
