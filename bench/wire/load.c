/*
 * The load: masters that submit jobs, slaves that echo them, for several systems.
 *
 *     load --system NAME --port PORT [--slave-port PORT] [options]
 *
 *     --system        gloom, relay, gearmand, beanstalkd or nats
 *     --masters N --slaves N --window N       4, 8, and 64 jobs in flight a master
 *     --jobs N --body BYTES                   20000 of 100 bytes
 *     --slots N       a slave of gloom says hello and has N jobs in hand
 *     --rate N        offer N jobs a second, whatever is answered, instead of a window
 *     --fill N        first queue N jobs of a type that nobody takes (gloom, gearmand)
 *     --pid PID       the system's process, of which the CPU time is taken
 *
 * It prints one line of JSON. Every answer is checked: that it belongs to a job
 * that waits, and that the body came back. Anything unexpected is one line on
 * stderr and status 1.
 *
 * With --rate a latency begins when the job was to be sent by the plan, not when
 * it was: a system that stands still is charged for all who would have come.
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 1 << 18, EVENTS = 64, STALL_SECONDS = 30, FILL_ON_THE_WAY = 1000 };

static const struct {
    const char *name;
    const struct wire *wire;
} systems[] = {
    {"gloom", &gloom_wire},           {"relay", &gloom_wire}, {"gearmand", &gearman_wire},
    {"beanstalkd", &beanstalkd_wire}, {"nats", &nats_wire},
};

int slots = 1, window = 64;
size_t body_length = 100;
static int master_count = 4, slave_count = 8, port, slave_port, fill, pid;
static uint64_t jobs = 20000;
static double rate;
static const char *system_name = "gloom";
static const struct wire *wire;

static int epoll, connection_count, ready_count;
static struct master *masters, filler;
static uint64_t now_ns, planned, answered;
static uint64_t *latencies_ns, *late_ns;
static char *body_pattern;

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) {
        fputs("load: out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", system_name, what);
    exit(1);
}

static const char *roles[] = {"slave", "master", "master (answers)"};

static void lost(const struct connection *connection, const char *how) {
    fprintf(stderr, "load: %s: %s %d lost its connection: %s\n", system_name, roles[connection->role],
            connection->number, how);
    exit(1);
}

void unexpected(const struct connection *connection, const char *what, const char *data, size_t length) {
    fprintf(stderr, "load: %s: what came to %s %d %s: ", system_name, roles[connection->role], connection->number, what);
    for (size_t i = 0; i < length && i < 200; i++)
        fputc(data[i] >= ' ' && data[i] <= '~' ? data[i] : '.', stderr);
    fputc('\n', stderr);
    exit(1);
}

size_t line_length(const char *data, size_t length) {
    const char *end = memmem(data, length, "\r\n", 2);
    return end ? (size_t)(end - data) + 2 : 0;
}

const char *line_text(const char *data, size_t length) {
    static char text[256];
    snprintf(text, sizeof text, "%.*s", (int)length, data);
    return text;
}

bool starts_with(const char *data, size_t length, const char *text) {
    size_t wanted = strlen(text);
    return length >= wanted && memcmp(data, text, wanted) == 0;
}

void append_format(struct buffer *buffer, const char *format, ...) {
    va_list arguments;
    char *room = buffer_room(buffer, 128);
    va_start(arguments, format);
    buffer->end += (size_t)vsnprintf(room, 128, format, arguments);
    va_end(arguments);
}

/* Bodies: "<16 hexadecimal digits: the master, the job>xxxxx" */

enum { DIGITS = 16, JOB_BITS = 48 };

void append_body(struct buffer *buffer, const struct master *master, uint64_t job) {
    uint64_t name = (uint64_t)master->number << JOB_BITS | job;
    char *body = buffer_room(buffer, body_length);
    memcpy(body, body_pattern, body_length);
    for (int digit = 0; digit < DIGITS; digit++)
        body[1 + digit] = "0123456789abcdef"[name >> (4 * (DIGITS - 1 - digit)) & 15];
    buffer->end += body_length;
}

static uint64_t body_name(const char *body, size_t length) {
    uint64_t name = 0;
    if (length != body_length || body[0] != '"' ||
        memcmp(body + 1 + DIGITS, body_pattern + 1 + DIGITS, length - 1 - DIGITS))
        return UINT64_MAX;
    for (int digit = 0; digit < DIGITS; digit++) {
        char c = body[1 + digit];
        name = name << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return name;
}

/* What the wires tell. */

void is_ready(struct connection *connection) {
    connection->ready = true;
    ready_count++;
}

uint64_t was_accepted(struct connection *connection) {
    struct master *master = connection->master;
    if (master->accepted == master->submitted)
        unexpected(connection, "accepts more than was submitted", "", 0);
    return master->accepted++;
}

static void submit(struct master *master, uint64_t scheduled_ns) {
    master->scheduled_ns[master->submitted] = scheduled_ns;
    wire->submit(master, master->submitted++);
}

uint64_t was_answered(struct connection *connection, const char *body, size_t length) {
    struct master *master = connection->master;
    uint64_t name = body_name(body, length), job = name & (((uint64_t)1 << JOB_BITS) - 1);
    if (name >> JOB_BITS != (uint64_t)master->number || job >= master->submitted)
        unexpected(connection, "is no body of one of its jobs", body, length);
    if (!master->scheduled_ns[job] || master->is_filler)
        unexpected(connection, "answers a job that waits for no answer", body, length);
    if (!wire->has_hears && job >= master->accepted)
        unexpected(connection, "answers a job before it was accepted", body, length);
    latencies_ns[answered++] = now_ns - master->scheduled_ns[job];
    master->scheduled_ns[job] = 0;
    if (rate == 0 && planned < jobs) {
        planned++;
        submit(master, now_ns);
    }
    return job;
}

/* Connections. */

static void watch(struct connection *connection, int verb) {
    struct epoll_event event = {.events = EPOLLIN | (connection->waits_to_write ? EPOLLOUT : 0), .data.ptr = connection};
    if (epoll_ctl(epoll, verb, connection->descriptor, &event))
        fail(strerror(errno));
}

static void flush(struct connection *connection) {
    struct buffer *out = &connection->out;
    while (buffer_length(out) > 0) {
        ssize_t count = send(connection->descriptor, out->data + out->start, buffer_length(out), MSG_NOSIGNAL);
        if (count < 0 && errno == EAGAIN)
            break;
        if (count < 0)
            lost(connection, strerror(errno));
        out->start += (size_t)count;
    }
    if (connection->waits_to_write != (buffer_length(out) > 0)) {
        connection->waits_to_write = !connection->waits_to_write;
        watch(connection, EPOLL_CTL_MOD);
    }
}

static struct connection *open_connection(enum role role, int number, struct master *master) {
    struct connection *connection = allocate(1, sizeof *connection);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1;
    address.sin_port = htons((uint16_t)(role == SLAVE ? slave_port : port));
    connection->role = role;
    connection->number = number;
    connection->master = master;
    connection->descriptor = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection->descriptor, (struct sockaddr *)&address, sizeof address))
        fail(strerror(errno));
    setsockopt(connection->descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    watch(connection, EPOLL_CTL_ADD);
    connection_count++;
    wire->begin(connection);
    flush(connection);
    return connection;
}

static void open_master(struct master *master, int number, uint64_t most) {
    master->number = number;
    master->scheduled_ns = allocate(most, sizeof(uint64_t));
    master->names = allocate(most, sizeof(uint64_t));
    master->sends = open_connection(MASTER, number, master);
    if (wire->has_hears)
        open_connection(HEARS, number, master);
}

static void readable(struct connection *connection) {
    struct buffer *in = &connection->in;
    size_t length;
    ssize_t count = recv(connection->descriptor, buffer_room(in, CHUNK), CHUNK, MSG_DONTWAIT);
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0)
        lost(connection, count ? strerror(errno) : "closed");
    in->end += (size_t)count;
    now_ns = clock_ns(CLOCK_MONOTONIC);
    while ((length = wire->read(connection, in->data + in->start, buffer_length(in))) > 0)
        in->start += length;
    flush(connection);
    if (connection->role == HEARS)
        flush(connection->master->sends);
}

/* Wait for what comes until then, at most, and read it. */
static void turn(uint64_t until_ns) {
    static uint64_t heard_ns;
    struct epoll_event events[EVENTS];
    uint64_t left = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec timeout = {(time_t)(left / 1000000000), (long)(left % 1000000000)};
    int count = epoll_pwait2(epoll, events, EVENTS, &timeout, NULL);
    if (count < 0)
        fail(strerror(errno));
    now_ns = clock_ns(CLOCK_MONOTONIC);
    if (count > 0 || heard_ns == 0)
        heard_ns = now_ns;
    if (now_ns - heard_ns > (uint64_t)STALL_SECONDS * 1000000000)
        fail("nothing has come for 30 s");
    for (int i = 0; i < count; i++) {
        if (events[i].events & EPOLLOUT)
            flush(events[i].data.ptr);
        if (events[i].events & ~(uint32_t)EPOLLOUT)
            readable(events[i].data.ptr);
    }
}

static uint64_t soon(void) { return now_ns + 1000000000; }

/* The phases. */

static void open_all(void) {
    masters = allocate((size_t)master_count, sizeof *masters);
    for (int number = 0; number < slave_count; number++)
        open_connection(SLAVE, number, NULL);
    for (int number = 0; number < master_count; number++)
        open_master(&masters[number], number, jobs);
    if (fill) {
        filler.is_filler = true;
        open_master(&filler, master_count, (uint64_t)fill);
    }
    while (ready_count < connection_count)
        turn(soon());
}

static void fill_queue(void) {
    while (filler.accepted < (uint64_t)fill) {
        while (filler.submitted < (uint64_t)fill && filler.submitted - filler.accepted < FILL_ON_THE_WAY)
            submit(&filler, now_ns);
        flush(filler.sends);
        turn(soon());
    }
}

static void run_closed_loop(void) {
    for (int number = 0; number < master_count; number++) {
        now_ns = clock_ns(CLOCK_MONOTONIC);
        for (int i = 0; i < window && planned < jobs; i++, planned++)
            submit(&masters[number], now_ns);
        flush(masters[number].sends);
    }
    while (answered < jobs)
        turn(soon());
}

static void run_at_rate(uint64_t begun_ns) {
    while (answered < jobs) {
        uint64_t due_ns, first = planned;
        now_ns = clock_ns(CLOCK_MONOTONIC);
        while (due_ns = begun_ns + (uint64_t)((double)planned * 1e9 / rate), planned < jobs && due_ns <= now_ns) {
            late_ns[planned] = now_ns - due_ns;
            submit(&masters[planned++ % (uint64_t)master_count], due_ns);
        }
        for (uint64_t i = first; i < planned && i < first + (uint64_t)master_count; i++)
            flush(masters[i % (uint64_t)master_count].sends);
        turn(planned < jobs ? due_ns : soon());
    }
}

static int compare(const void *a, const void *b) {
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

/* Of sorted values: the smallest that at least this part of them does not exceed. */
static double percentile_us(const uint64_t *sorted_ns, double part) {
    uint64_t rank = (uint64_t)(part * (double)jobs);
    rank += (double)rank < part * (double)jobs;
    return (double)sorted_ns[rank > 0 ? rank - 1 : 0] / 1000;
}

static void report(double seconds, double load_cpu, double cpu) {
    qsort(latencies_ns, jobs, sizeof(uint64_t), compare);
    qsort(late_ns, jobs, sizeof(uint64_t), compare);
    printf("{\"jobs\": %lu, \"seconds\": %.6f, \"load_cpu_seconds\": %.6f, \"cpu_seconds\": ", jobs, seconds, load_cpu);
    printf(pid ? "%.6f" : "null", cpu);
    printf(", \"p50_us\": %.1f, \"p99_us\": %.1f, \"p99_9_us\": %.1f, \"max_us\": %.1f, \"late_p99_us\": %.1f}\n",
           percentile_us(latencies_ns, 0.5), percentile_us(latencies_ns, 0.99), percentile_us(latencies_ns, 0.999),
           percentile_us(latencies_ns, 1), percentile_us(late_ns, 0.99));
}

static void measure(void) {
    clockid_t system_clock = CLOCK_PROCESS_CPUTIME_ID;
    if (pid && clock_getcpuclockid(pid, &system_clock))
        fail("there is no such process (--pid)");
    uint64_t cpu_ns = clock_ns(system_clock), load_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t begun_ns = clock_ns(CLOCK_MONOTONIC);
    if (rate > 0)
        run_at_rate(begun_ns);
    else
        run_closed_loop();
    uint64_t ended_ns = clock_ns(CLOCK_MONOTONIC);
    cpu_ns = clock_ns(system_clock) - cpu_ns;
    load_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - load_ns;
    report((double)(ended_ns - begun_ns) / 1e9, (double)load_ns / 1e9, (double)cpu_ns / 1e9);
}

static void __attribute__((noreturn)) usage(const char *what) {
    fprintf(stderr, "load: %s (load.c says how it is called)\n", what);
    exit(2);
}

static void take_options(int count, char **arguments) {
    static const struct option options[] = {
        {"system", 1, 0, 'y'}, {"port", 1, 0, 'p'},   {"slave-port", 1, 0, 'P'}, {"masters", 1, 0, 'm'},
        {"slaves", 1, 0, 's'}, {"window", 1, 0, 'w'}, {"jobs", 1, 0, 'j'},       {"body", 1, 0, 'b'},
        {"slots", 1, 0, 'S'},  {"rate", 1, 0, 'r'},   {"fill", 1, 0, 'f'},       {"pid", 1, 0, 'i'}, {0, 0, 0, 0},
    };
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        switch (option) {
        case 'y': system_name = optarg; break;
        case 'p': port = atoi(optarg); break;
        case 'P': slave_port = atoi(optarg); break;
        case 'm': master_count = atoi(optarg); break;
        case 's': slave_count = atoi(optarg); break;
        case 'w': window = atoi(optarg); break;
        case 'j': jobs = strtoul(optarg, NULL, 10); break;
        case 'b': body_length = strtoul(optarg, NULL, 10); break;
        case 'S': slots = atoi(optarg); break;
        case 'r': rate = atof(optarg); break;
        case 'f': fill = atoi(optarg); break;
        case 'i': pid = atoi(optarg); break;
        default: usage("unknown option");
        }
    }
    for (size_t i = 0; i < sizeof systems / sizeof *systems; i++)
        if (strcmp(systems[i].name, system_name) == 0)
            wire = systems[i].wire;
    if (!wire)
        usage("--system is gloom, relay, gearmand, beanstalkd or nats");
    if (!port || master_count < 1 || slave_count < 1 || window < 1 || jobs < 1 || body_length < DIGITS + 2 || slots < 1)
        usage("--port is needed, counts are 1 or more, and a body has 18 bytes or more");
    if ((fill && !wire->can_fill) || (slots > 1 && wire != &gloom_wire))
        usage("--fill is for gloom and gearmand, --slots for gloom");
    slave_port = slave_port ? slave_port : port;
}

int main(int count, char **arguments) {
    take_options(count, arguments);
    /* Else the kernel wakes a sleeper up to 50 us late. */
    prctl(PR_SET_TIMERSLACK, 1000);
    epoll = epoll_create1(0);
    now_ns = clock_ns(CLOCK_MONOTONIC);
    latencies_ns = allocate(jobs, sizeof(uint64_t));
    late_ns = allocate(jobs, sizeof(uint64_t));
    body_pattern = memset(allocate(body_length, 1), 'x', body_length);
    body_pattern[0] = body_pattern[body_length - 1] = '"';
    open_all();
    fill_queue();
    measure();
    return 0;
}
