/* A load generator for OpenAI-compatible chat endpoints: one thread, epoll, keep-alive, one call at a time on each
 * connection. Prints one line of JSON.
 *
 *   load -u URL [-k KEY] [-m MODEL] [-c CONNECTIONS] [-d SECONDS] [-w WARM_S] [-g GRACE_S] [-r RATE] [-s [-x EVENTS]]
 *
 * Closed loop (the default): each connection sends its next call when the last one is answered.
 * Open loop (-r, calls a second in all): calls are due at fixed instants, and latency counts from the instant a call
 * was due, not from when it could be sent. So a target that stalls is charged for the calls that queued meanwhile.
 * Streams (-s): a stream is intact when it had exactly EVENTS `data:` events, its usage, and `[DONE]` as the last one.
 *
 * Calls due in the first WARM_S seconds are made but not measured. After WARM_S + SECONDS no call is started; those
 * in flight may end within GRACE_S. Latency is taken from every measured call, however late it ended, or a slow
 * target would look quick. Calls a second count the answers inside the measured time; events a second count all events
 * up to the last, because a target that is overloaded may deliver the first one after the measured time.
 *
 * Bounds: only 127.0.0.1 is called; connections, rate and times have maxima below; latencies go into a histogram of
 * fixed size; after FAILURES_MAX failed calls it gives up; an alarm ends it in any case.
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
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 10000,
    SECONDS_MAX = 600,
    RATE_MAX = 200000,
    FAILURES_MAX = 100000,
    HEAD_BYTES_MAX = 16384,
    READ_BYTES = 1 << 17,
    READY_MAX = 256,
};

#define NS_A_SECOND 1000000000LL

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * NS_A_SECOND + t.tv_nsec;
}

/* ---- histogram ----------------------------------------------------------------------------------------------- */

/* Microseconds, exact up to 511, then in steps of less than 0.4 %: each power of two has 256 buckets. */
enum { STEPS = 256, POWERS = 24, BUCKETS = STEPS * (POWERS + 2) };

typedef struct {
    uint64_t buckets[BUCKETS], count, max_us;
} Histogram;

static int bucket_of(uint64_t us) {
    int power = 0;
    while (us >> power >= 2 * STEPS) power++;
    int bucket = power * STEPS + (int)(us >> power);
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static uint64_t bucket_us(int bucket) {
    if (bucket < 2 * STEPS) return (uint64_t)bucket;
    int power = bucket / STEPS - 1;
    uint64_t low = (uint64_t)(bucket - power * STEPS) << power;
    return low + (1ULL << power) / 2;
}

static void record(Histogram *h, int64_t ns) {
    uint64_t us = ns > 0 ? (uint64_t)ns / 1000 : 0;
    h->buckets[bucket_of(us)]++;
    h->count++;
    if (us > h->max_us) h->max_us = us;
}

static uint64_t percentile(const Histogram *h, double fraction) {
    uint64_t wanted = (uint64_t)(fraction * (double)h->count), seen = 0;
    for (int bucket = 0; bucket < BUCKETS; bucket++) {
        seen += h->buckets[bucket];
        if (seen > wanted) return bucket_us(bucket);
    }
    return h->max_us;
}

/* ---- what is asked and what came of it ----------------------------------------------------------------------- */

typedef struct {
    char host[64], path[512];
    int port;
    const char *key, *model;
    int connections, expected_events;
    double seconds, warm_s, grace_s, rate;
    bool streaming;
} Options;

static Options options = {.key = "none", .model = "mock-1", .connections = 16, .expected_events = 67,
                          .seconds = 5, .warm_s = 0.5, .grace_s = 20};

static struct {
    uint64_t started, answered; /* all of them, also before and after the measured time */
    uint64_t in_time;           /* answered 200 inside the measured time */
    uint64_t events;
    int64_t last_event_at;
    uint64_t intact, broken;    /* streams answered 200 */
    uint64_t failed, non_200, unfinished, reconnects, unsent;
    char first_failure[200];
} totals;

static Histogram latency, first_byte;
static int64_t began_at, measure_from, measure_until, give_up_at;

static char request[4096];
static size_t request_length;
static struct sockaddr_in address;
static int poller, timer;

static bool is_measured_time(int64_t t) { return t >= measure_from && t < measure_until; }

/* ---- connections --------------------------------------------------------------------------------------------- */

typedef enum { READ_HEAD, READ_SIZED, READ_TO_END, READ_CHUNK_SIZE, READ_CHUNK, READ_CHUNK_END, READ_TRAILER } Phase;

static const char USAGE_MARK[] = "\"completion_tokens\"";
enum { MARK_LENGTH = sizeof USAGE_MARK - 1, LINE_START_BYTES = 12 }; /* "data: [DONE]" */

typedef struct {
    int fd;
    bool connecting, busy, close_after;
    int64_t due_at, first_byte_at;

    /* HTTP */
    Phase phase;
    char *head; /* allocated once a connection */
    size_t head_length;
    int status;
    size_t left; /* bytes of the sized body or of the chunk */
    char line[32];
    size_t line_length;

    /* server-sent events */
    char line_start[LINE_START_BYTES];
    size_t line_start_length;
    char tail[MARK_LENGTH]; /* the last bytes of the previous piece: the mark may be split */
    size_t tail_length;
    int events;
    bool is_data, usage_seen, done_last;
} Connection;

static Connection *connections;
static int *idle, idle_count;

static void note_failure(const char *what, const char *detail, size_t length) {
    if (totals.first_failure[0]) return;
    snprintf(totals.first_failure, sizeof totals.first_failure, "%s %.*s", what, (int)(length > 150 ? 150 : length), detail);
}

static void fail_call(const char *what, const char *detail) {
    totals.failed++;
    note_failure(what, detail, strlen(detail));
}

static void open_connection(Connection *c) {
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        perror("load: socket");
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    c->connecting = true;
    c->busy = false;
    /* A refusal shows when the socket becomes writable; there is nothing else to handle here. */
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) totals.failed++;
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
}

static void reopen(Connection *c) {
    close(c->fd);
    totals.reconnects++;
    open_connection(c);
}

static void forget_idle(const Connection *c) {
    int index = (int)(c - connections);
    for (int i = 0; i < idle_count; i++) {
        if (idle[i] == index) {
            idle[i] = idle[--idle_count];
            return;
        }
    }
}

/* The request is small and the connection idle: one send takes it whole or something is wrong. */
static void start_call(Connection *c, int64_t due_at) {
    c->busy = true;
    c->close_after = false;
    c->due_at = due_at;
    c->first_byte_at = 0;
    c->phase = READ_HEAD;
    c->head_length = c->line_length = c->line_start_length = c->tail_length = 0;
    c->status = c->events = 0;
    c->is_data = c->usage_seen = c->done_last = false;
    totals.started++;
    if (send(c->fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length) {
        fail_call("send:", strerror(errno));
        reopen(c);
    }
}

/* In a closed loop a free connection calls again at once; in an open loop it waits for the next instant. */
static void next_call(Connection *c) {
    if (options.rate > 0) idle[idle_count++] = (int)(c - connections);
    else {
        int64_t now = now_ns();
        if (now < measure_until) start_call(c, now);
    }
}

static void count_answer(Connection *c) {
    int64_t now = now_ns();
    totals.answered++;
    if (c->status != 200) {
        totals.non_200++;
        return;
    }
    if (options.streaming) {
        bool intact = c->events == options.expected_events && c->usage_seen && c->done_last;
        if (intact) totals.intact++;
        else {
            char detail[80];
            snprintf(detail, sizeof detail, "%d events, usage %d, [DONE] last %d", c->events, c->usage_seen, c->done_last);
            note_failure("broken stream:", detail, sizeof detail);
            totals.broken++;
        }
    }
    if (is_measured_time(now)) totals.in_time++;
    if (c->due_at >= measure_from) {
        record(&latency, now - c->due_at);
        if (c->first_byte_at) record(&first_byte, c->first_byte_at - c->due_at);
    }
}

static void end_call(Connection *c) {
    count_answer(c);
    c->busy = false;
    if (c->close_after) reopen(c);
    else next_call(c);
}

/* ---- reading answers ----------------------------------------------------------------------------------------- */

/* Looks for the usage mark, also where it is split over two pieces. */
static void scan_usage(Connection *c, const char *piece, size_t length) {
    if (c->usage_seen) return;
    char seam[2 * MARK_LENGTH];
    size_t from_piece = length < MARK_LENGTH ? length : MARK_LENGTH;
    memcpy(seam, c->tail, c->tail_length);
    memcpy(seam + c->tail_length, piece, from_piece);
    size_t seam_length = c->tail_length + from_piece;
    c->usage_seen = memmem(seam, seam_length, USAGE_MARK, MARK_LENGTH) || memmem(piece, length, USAGE_MARK, MARK_LENGTH);

    /* The new tail is the end of the piece, or of the seam when the piece is shorter than the mark. */
    const char *end = length >= MARK_LENGTH ? piece + length : seam + seam_length;
    size_t available = length >= MARK_LENGTH ? length : seam_length;
    c->tail_length = available < MARK_LENGTH - 1 ? available : MARK_LENGTH - 1;
    memmove(c->tail, end - c->tail_length, c->tail_length);
}

/* Counts lines that begin with `data:`. Only the start of a line is kept; the rest is skipped with memchr. */
static void scan_events(Connection *c, const char *piece, size_t length) {
    for (const char *p = piece, *end = piece + length; p < end;) {
        if (*p == '\n') {
            c->line_start_length = 0;
            p++;
        } else if (c->line_start_length < LINE_START_BYTES) {
            c->line_start[c->line_start_length++] = *p++;
            if (c->line_start_length == 5 && !memcmp(c->line_start, "data:", 5)) {
                c->events++;
                totals.events++;
                c->done_last = false;
            }
            if (c->line_start_length == LINE_START_BYTES && !memcmp(c->line_start, "data: [DONE]", LINE_START_BYTES))
                c->done_last = true;
        } else {
            p = memchr(p, '\n', (size_t)(end - p));
            if (!p) return;
        }
    }
}

static void take_body(Connection *c, const char *piece, size_t length) {
    if (!length) return;
    if (c->status != 200) {
        char what[32];
        snprintf(what, sizeof what, "status %d:", c->status);
        note_failure(what, piece, length);
        return;
    }
    if (!c->first_byte_at) c->first_byte_at = now_ns();
    if (!options.streaming) return;
    uint64_t before = totals.events;
    scan_usage(c, piece, length);
    scan_events(c, piece, length);
    if (totals.events > before) totals.last_event_at = now_ns();
}

/* How the body ends, from the head. */
static void read_head(Connection *c) {
    bool chunked = false, sized = false;
    c->status = atoi(c->head + 9);
    c->left = 0;
    for (char *line = strstr(c->head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (!strncasecmp(line, "content-length:", 15)) sized = true, c->left = strtoul(line + 15, NULL, 10);
        else if (!strncasecmp(line, "transfer-encoding: chunked", 26)) chunked = true;
        else if (!strncasecmp(line, "connection: close", 17)) c->close_after = true;
    }
    c->phase = chunked ? READ_CHUNK_SIZE : sized ? READ_SIZED : READ_TO_END;
    if (c->phase == READ_TO_END) c->close_after = true;
}

typedef enum { MORE, COMPLETE, INVALID } Progress;

/* Collects the head over as many reads as it takes. Moves `*at` past what it used. */
static Progress feed_head(Connection *c, const char **at, const char *end) {
    size_t old = c->head_length, length = (size_t)(end - *at), room = HEAD_BYTES_MAX - 1 - old;
    if (length > room) length = room;
    if (!length) return INVALID;
    memcpy(c->head + old, *at, length);
    c->head_length += length;
    c->head[c->head_length] = 0;
    char *head_end = memmem(c->head, c->head_length, "\r\n\r\n", 4);
    if (!head_end) {
        *at += length;
        return MORE;
    }
    *at += (size_t)(head_end - c->head) + 4 - old;
    head_end[2] = 0; /* so that strstr stays within this head */
    if (strncmp(c->head, "HTTP/1.1 ", 9)) return INVALID;
    read_head(c);
    if (c->status / 100 == 1) {
        c->phase = READ_HEAD;
        c->head_length = 0;
        return MORE;
    }
    return c->phase == READ_SIZED && !c->left ? COMPLETE : MORE;
}

/* Collects one line of chunk framing. True when it is whole; `line` then holds it without its end. */
static bool feed_line(Connection *c, const char **at, const char *end) {
    while (*at < end) {
        char byte = *(*at)++;
        if (byte == '\n') {
            c->line[c->line_length] = 0;
            c->line_length = 0;
            return true;
        }
        if (byte != '\r' && c->line_length < sizeof c->line - 1) c->line[c->line_length++] = byte;
    }
    return false;
}

static void feed_bounded(Connection *c, const char **at, const char *end) {
    size_t length = (size_t)(end - *at);
    if (length > c->left) length = c->left;
    take_body(c, *at, length);
    *at += length;
    c->left -= length;
}

static Progress feed(Connection *c, const char *bytes, size_t length) {
    const char *at = bytes, *end = bytes + length;
    while (at < end) {
        switch (c->phase) {
        case READ_HEAD: {
            Progress progress = feed_head(c, &at, end);
            if (progress != MORE) return progress;
            break;
        }
        case READ_SIZED:
            feed_bounded(c, &at, end);
            if (!c->left) return at == end ? COMPLETE : INVALID;
            break;
        case READ_TO_END:
            take_body(c, at, (size_t)(end - at));
            at = end;
            break;
        case READ_CHUNK_SIZE:
            if (!feed_line(c, &at, end)) break;
            c->left = strtoul(c->line, NULL, 16);
            c->phase = c->left ? READ_CHUNK : READ_TRAILER;
            break;
        case READ_CHUNK:
            feed_bounded(c, &at, end);
            if (!c->left) c->phase = READ_CHUNK_END;
            break;
        case READ_CHUNK_END:
            if (feed_line(c, &at, end)) c->phase = READ_CHUNK_SIZE;
            break;
        case READ_TRAILER:
            if (feed_line(c, &at, end) && !c->line[0]) return at == end ? COMPLETE : INVALID;
            break;
        }
    }
    return MORE;
}

/* ---- the loop ------------------------------------------------------------------------------------------------ */

static void connected(Connection *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        fail_call("connect:", strerror(error));
        if (now_ns() < measure_until) reopen(c);
        else epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
        return;
    }
    c->connecting = false;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
    next_call(c);
}

static void closed_by_target(Connection *c, const char *why) {
    if (c->busy && c->phase == READ_TO_END) {
        end_call(c);
        return;
    }
    if (c->busy) fail_call("connection lost:", why);
    else forget_idle(c); /* an idle connection may be closed: that is no fault */
    reopen(c);
}

static void serve_ready(Connection *c, uint32_t events, char *buffer) {
    if (c->connecting) {
        if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) connected(c);
        return;
    }
    ssize_t got = recv(c->fd, buffer, READ_BYTES, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        closed_by_target(c, got ? strerror(errno) : "end of input");
        return;
    }
    Progress progress = c->busy ? feed(c, buffer, (size_t)got) : INVALID;
    if (progress == COMPLETE) end_call(c);
    if (progress == INVALID) {
        if (!c->busy) forget_idle(c);
        fail_call("invalid answer:", c->busy ? "framing" : "bytes without a request");
        reopen(c);
    }
}

/* Starts what is due and has a free connection. Returns the next instant; a call that found no connection keeps its
 * own, and is sent late and measured from it. */
static int64_t start_due_calls(int64_t next_at) {
    int64_t interval = (int64_t)((double)NS_A_SECOND / options.rate);
    while (idle_count && next_at <= now_ns() && next_at < measure_until) {
        start_call(&connections[idle[--idle_count]], next_at);
        next_at += interval;
    }
    if (idle_count && next_at < measure_until) {
        struct itimerspec at = {.it_value = {next_at / NS_A_SECOND, next_at % NS_A_SECOND}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
    }
    return next_at;
}

static int busy_count(void) {
    int busy = 0;
    for (int i = 0; i < options.connections; i++) busy += connections[i].busy;
    return busy;
}

static void drain_timer(void) {
    uint64_t expirations;
    if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN) perror("load: timer");
}

static void run(void) {
    static char buffer[READ_BYTES];
    struct epoll_event ready[READY_MAX];
    int64_t next_at = now_ns();
    for (int64_t now = next_at; now < give_up_at && totals.failed < FAILURES_MAX; now = now_ns()) {
        if (options.rate > 0) next_at = start_due_calls(next_at);
        if (now >= measure_until && !busy_count()) break;
        int count = epoll_wait(poller, ready, READY_MAX, 20);
        for (int i = 0; i < count; i++) {
            Connection *c = ready[i].data.ptr;
            if (c) serve_ready(c, ready[i].events, buffer);
            else drain_timer();
        }
    }
    totals.unfinished = (uint64_t)busy_count();
    if (options.rate > 0 && next_at < measure_until)
        totals.unsent = (uint64_t)((double)(measure_until - next_at) / NS_A_SECOND * options.rate);
}

/* ---- command line and output --------------------------------------------------------------------------------- */

static void refuse(const char *why) {
    fprintf(stderr, "load: %s\n", why);
    exit(2);
}

static void read_url(const char *url) {
    if (sscanf(url, "http://%63[^:/]:%d%511s", options.host, &options.port, options.path) != 3)
        refuse("URL must be http://127.0.0.1:PORT/PATH");
    if (strcmp(options.host, "127.0.0.1")) refuse("only 127.0.0.1 may be loaded");
}

static void read_options(int argc, char **argv) {
    bool has_url = false;
    for (int option; (option = getopt(argc, argv, "u:k:m:c:d:w:g:r:sx:")) > 0;) {
        switch (option) {
        case 'u': read_url(optarg), has_url = true; break;
        case 'k': options.key = optarg; break;
        case 'm': options.model = optarg; break;
        case 'c': options.connections = atoi(optarg); break;
        case 'd': options.seconds = atof(optarg); break;
        case 'w': options.warm_s = atof(optarg); break;
        case 'g': options.grace_s = atof(optarg); break;
        case 'r': options.rate = atof(optarg); break;
        case 's': options.streaming = true; break;
        case 'x': options.expected_events = atoi(optarg); break;
        default: refuse("unknown option");
        }
    }
    if (!has_url) refuse("-u URL is needed");
    if (options.connections < 1 || options.connections > CONNECTIONS_MAX) refuse("-c is out of bounds");
    if (options.seconds <= 0 || options.seconds > SECONDS_MAX) refuse("-d is out of bounds");
    if (options.warm_s < 0 || options.warm_s > SECONDS_MAX) refuse("-w is out of bounds");
    if (options.grace_s < 0 || options.grace_s > SECONDS_MAX) refuse("-g is out of bounds");
    if (options.rate < 0 || options.rate > RATE_MAX) refuse("-r is out of bounds");
}

static void render_request(void) {
    char body[2048];
    int body_length = snprintf(
        body, sizeof body,
        "{\"model\":\"%s\",\"messages\":[{\"role\":\"system\",\"content\":\"You answer in one short sentence and add "
        "nothing to it.\"},{\"role\":\"user\",\"content\":\"A fox meets a dog that lies in the sun. What does the fox do, "
        "how often, and what does the dog make of it?\"}],\"temperature\":0.7,\"max_tokens\":256%s}",
        options.model, options.streaming ? ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" : "");
    int length = snprintf(request, sizeof request,
                          "POST %s HTTP/1.1\r\nhost: %s:%d\r\nauthorization: Bearer %s\r\n"
                          "content-type: application/json\r\naccept: */*\r\nuser-agent: benchmark/1\r\n"
                          "content-length: %d\r\n\r\n%s",
                          options.path, options.host, options.port, options.key, body_length, body);
    if (body_length >= (int)sizeof body || length >= (int)sizeof request) refuse("request too long");
    request_length = (size_t)length;
}

static void prepare(void) {
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    inet_pton(AF_INET, options.host, &address.sin_addr);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &e);

    began_at = now_ns();
    measure_from = began_at + (int64_t)(options.warm_s * NS_A_SECOND);
    measure_until = measure_from + (int64_t)(options.seconds * NS_A_SECOND);
    give_up_at = measure_until + (int64_t)(options.grace_s * NS_A_SECOND);
    alarm((unsigned)(options.warm_s + options.seconds + options.grace_s) + 10);

    connections = calloc((size_t)options.connections, sizeof *connections);
    idle = calloc((size_t)options.connections, sizeof *idle);
    char *heads = malloc((size_t)options.connections * HEAD_BYTES_MAX);
    if (!connections || !idle || !heads) refuse("out of memory");
    for (int i = 0; i < options.connections; i++) {
        connections[i].head = heads + (size_t)i * HEAD_BYTES_MAX;
        open_connection(&connections[i]);
    }
}

static void print_count(const char *name, uint64_t value) { printf("\"%s\":%llu,", name, (unsigned long long)value); }

static void print_percentiles(const char *name, const Histogram *h) {
    if (!h->count) return; /* absent, rather than a zero that reads like a measurement */
    printf("\"%s_p50_us\":%llu,\"%s_p90_us\":%llu,\"%s_p99_us\":%llu,\"%s_max_us\":%llu,", name,
           (unsigned long long)percentile(h, 0.5), name, (unsigned long long)percentile(h, 0.9), name,
           (unsigned long long)percentile(h, 0.99), name, (unsigned long long)h->max_us);
}

static void print_result(void) {
    printf("{");
    print_count("started", totals.started);
    print_count("answered", totals.answered);
    print_count("ok", totals.answered - totals.non_200);
    print_count("failed", totals.failed);
    print_count("non_200", totals.non_200);
    print_count("unfinished", totals.unfinished);
    print_count("unsent", totals.unsent);
    print_count("reconnects", totals.reconnects);
    printf("\"calls_per_s\":%.1f,", (double)totals.in_time / options.seconds);
    print_percentiles("latency", &latency);
    if (options.streaming) {
        print_percentiles("ttft", &first_byte);
        print_count("events", totals.events);
        print_count("intact", totals.intact);
        print_count("broken", totals.broken);
        double took_s = (double)(totals.last_event_at - began_at) / NS_A_SECOND;
        printf("\"events_per_s\":%.0f,", took_s > 0 ? (double)totals.events / took_s : 0);
    }
    printf("\"first_failure\":\"");
    for (const char *p = totals.first_failure; *p; p++)
        putchar(*p == '"' || *p == '\\' || (unsigned char)*p < 32 || (unsigned char)*p > 126 ? '.' : *p);
    printf("\"}\n");
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    read_options(argc, argv);
    render_request();
    prepare();
    run();
    print_result();
    return 0;
}
