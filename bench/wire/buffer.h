/* Bytes that have come and were not read yet, or that wait to be sent. */
#ifndef BUFFER_H
#define BUFFER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct buffer {
    char *data;
    size_t start, end, capacity; /* what it holds is data[start:end] */
};

static inline size_t buffer_length(const struct buffer *buffer) { return buffer->end - buffer->start; }

/* Make room for `length` more bytes, and return where they go. */
static inline char *buffer_room(struct buffer *buffer, size_t length) {
    if (buffer->start == buffer->end)
        buffer->start = buffer->end = 0;
    if (buffer->capacity - buffer->end < length && buffer->start > 0) {
        memmove(buffer->data, buffer->data + buffer->start, buffer_length(buffer));
        buffer->end -= buffer->start;
        buffer->start = 0;
    }
    if (buffer->capacity - buffer->end < length) {
        buffer->capacity = 2 * (buffer->end + length);
        buffer->data = realloc(buffer->data, buffer->capacity);
        if (!buffer->data) {
            fputs("out of memory\n", stderr);
            exit(1);
        }
    }
    return buffer->data + buffer->end;
}

static inline void buffer_append(struct buffer *buffer, const void *bytes, size_t length) {
    memcpy(buffer_room(buffer, length), bytes, length);
    buffer->end += length;
}

static inline void buffer_append_text(struct buffer *buffer, const char *text) {
    buffer_append(buffer, text, strlen(text));
}

static inline void put_uint32(char *to, size_t value) {
    to[0] = (char)(value >> 24), to[1] = (char)(value >> 16), to[2] = (char)(value >> 8), to[3] = (char)value;
}

static inline size_t get_uint32(const char *from) {
    const unsigned char *bytes = (const unsigned char *)from;
    return (size_t)bytes[0] << 24 | (size_t)bytes[1] << 16 | (size_t)bytes[2] << 8 | bytes[3];
}

#endif
