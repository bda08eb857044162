// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// Names of CPython's code objects, read where they are met: a read of 100 us from another process, and none at all once
// it has ended, is 1 us here. A name is sent once a book (knobs.book), with the bytes its lines are in; frames name it by
// number. Include after python_walk.h and a `struct record` whose `words` hold what the walk has found.
#ifndef OSREMED_PYTHON_TEXT_H
#define OSREMED_PYTHON_TEXT_H

#define NAMED (1ULL << 63) // a word with it is the number of a text, one without an address
#define MOST_NAME_BYTES 252
#define MOST_FILE_BYTES 508
#define MOST_TABLE_BYTES 8191
#define TEXT_BYTES 16384 // a power of two above the sum of the three
#define MIXER 0x9e3779b97f4a7c15ULL

// The same layout is in osremed/hotspot/records.py: `data` holds name, file and table, one behind the other.
struct text {
    __u16 kind, version;
    __u8 name_width, file_width; // bytes a character
    __u16 unused;
    __u64 number;
    __u32 first_line, name_bytes, file_bytes, table_bytes;
    char data[TEXT_BYTES];
};

struct code_place {
    __u64 start_ns, code;
};

// `mark` tells a code object from the next one at its address: a module's own is freed once it is imported.
struct code_known {
    __u64 mark, number, book;
};

struct text_known {
    __u64 number, book;
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 16384);
    __type(key, struct code_place);
    __type(value, struct code_known);
} codes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 16384);
    __type(key, __u64); // a hash of all that is sent
    __type(value, struct text_known);
} texts_known SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 2); // the sampler may interrupt a context switch
    __type(key, __u32);
    __type(value, struct text);
} reading SEC(".maps");

struct naming {
    struct record *record;
    struct python *python;
    struct text *text;
    __u64 start_ns, book, hash;
    __u32 first, at, bytes, kept, difference;
};

struct string_head {
    __u64 length, hash;
    __u32 state, unused;
};

// Up to `most` bytes of a compact str, to data[at]; how many, negative when it cannot be read.
static __always_inline int read_string(struct naming *naming, __u64 from, __u32 at, __u32 most, __u8 *width)
{
    struct string_head head;
    __u64 bytes;

    if (bpf_probe_read_user(&head, sizeof(head), (void *)(from + 16)))
        return -1;
    *width = head.state >> 2 & 7;
    if (*width != 1 && *width != 2 && *width != 4)
        return -1;
    bytes = head.length * *width;
    if (head.length > most || bytes > most)
        bytes = most;
    from += head.state >> 6 & 1 ? naming->python->ascii_data : naming->python->text_data;
    if (bpf_probe_read_user(&naming->text->data[at & 1023], bytes & 511, (void *)from))
        return -1;
    return bytes & 511;
}

// A byte of a table of lines (3.11 and later) that tells a line goes on; columns, which are most of it, do not. An entry
// begins with the byte that has its highest bit set; kinds 13 and 14 have a difference behind it, 6 bits a byte.
static long keep_line(__u32 index, struct naming *naming)
{
    __u8 byte, kind;

    if (index >= naming->bytes)
        return 1;
    byte = naming->text->data[(naming->at + index) & (TEXT_BYTES - 1)];
    if (byte & 0x80) {
        kind = byte >> 3 & 15;
        naming->difference = kind == 13 || kind == 14;
    } else if (naming->difference) {
        naming->difference = byte >> 6 & 1;
    } else {
        return 0;
    }
    naming->text->data[(naming->at + naming->kept) & (TEXT_BYTES - 1)] = byte;
    naming->kept++;
    return 0;
}

static __always_inline __u32 without_columns(struct naming *naming, __u32 at, __u32 bytes)
{
    naming->at = at;
    naming->bytes = bytes;
    naming->kept = naming->difference = unseen_zero();
    bpf_loop(MOST_TABLE_BYTES, keep_line, naming, 0);
    return naming->kept;
}

static long mix_text(__u32 index, struct naming *naming)
{
    __u32 at = index * 8 & (TEXT_BYTES - 8);

    if (index * 8 + 8 > naming->bytes)
        return 1;
    naming->hash = (naming->hash ^ *(__u64 *)&naming->text->data[at]) * MIXER;
    naming->hash ^= naming->hash >> 32;
    return 0;
}

static __always_inline void hash_text(struct naming *naming)
{
    struct text *text = naming->text;
    __u64 last = 0;

    naming->bytes = text->name_bytes + text->file_bytes + text->table_bytes;
    naming->hash = ((__u64)text->first_line << 32 | text->name_bytes << 16 | text->file_bytes) * MIXER;
    naming->hash ^= (__u64)text->version << 48 | text->name_width << 8 | text->file_width;
    bpf_loop(TEXT_BYTES / 8, mix_text, naming, 0);
    bpf_probe_read_kernel(&last, naming->bytes & 7, &text->data[naming->bytes & (TEXT_BYTES - 8)]);
    naming->hash = (naming->hash ^ last) * MIXER;
    naming->hash ^= naming->hash >> 29;
}

// The parts of a code object, into the text; false when one of them cannot be read.
static __always_inline bool read_text(struct naming *naming, __u64 code, __u64 file, __u64 name, __u64 table)
{
    struct text *text = naming->text;
    __u64 bytes = 0;
    int length;

    length = read_string(naming, name, 0, MOST_NAME_BYTES, &text->name_width);
    if (length < 0)
        return false;
    text->name_bytes = length;
    length = read_string(naming, file, text->name_bytes, MOST_FILE_BYTES, &text->file_width);
    if (length < 0)
        return false;
    text->file_bytes = length;
    if (bpf_probe_read_user(&text->first_line, 4, (void *)(code + naming->python->first_line)) ||
        bpf_probe_read_user(&bytes, 8, (void *)(table + 16)))
        return false;
    if (bytes > MOST_TABLE_BYTES)
        bytes = MOST_TABLE_BYTES;
    if (bpf_probe_read_user(&text->data[(text->name_bytes + text->file_bytes) & 1023], bytes & MOST_TABLE_BYTES,
                            (void *)(table + 32)))
        return false;
    text->version = naming->python->version;
    if (text->version >= 0x030b)
        bytes = without_columns(naming, text->name_bytes + text->file_bytes, bytes);
    text->table_bytes = bytes;
    return true;
}

static bool send_text(struct text *text, __u32 bytes);
static __u64 next_number(void);

// The number of a code object's text, which has been sent in this book then; 0 when it cannot be read.
static __always_inline __u64 number_of_code(struct naming *naming, __u64 code)
{
    struct code_place place = {.start_ns = naming->start_ns, .code = code};
    struct code_known *known = bpf_map_lookup_elem(&codes, &place), fresh = {.book = naming->book};
    struct python *python = naming->python;
    struct text_known *sent, now = {.book = naming->book};
    __u64 words[4], file, name, table;

    if (bpf_probe_read_user(words, sizeof(words), (void *)(code + python->file)))
        return 0;
    file = words[0];
    name = words[((python->name - python->file) / 8) & 3];
    table = words[((python->table - python->file) / 8) & 3];
    fresh.mark = ((file * MIXER ^ name) * MIXER ^ table) * MIXER;
    if (known && known->mark == fresh.mark && known->book == fresh.book)
        return known->number;
    if (!read_text(naming, code, file, name, table))
        return 0;
    hash_text(naming);
    sent = bpf_map_lookup_elem(&texts_known, &naming->hash);
    now.number = sent ? sent->number : next_number();
    if (!sent || sent->book != now.book) {
        naming->text->number = now.number;
        if (!send_text(naming->text, naming->bytes))
            return 0;
        bpf_map_update_elem(&texts_known, &naming->hash, &now, BPF_ANY);
    }
    fresh.number = now.number;
    bpf_map_update_elem(&codes, &place, &fresh, BPF_ANY);
    return fresh.number;
}

// One frame: its two words become the number of its code's text, and which instruction it is at.
static long name_frame(__u32 index, struct naming *naming)
{
    __u32 at = (naming->first + 2 * index) & (WORDS - 1), next = (at + 1) & (WORDS - 1);
    __u64 code = naming->record->words[at], instruction = naming->record->words[next], number;
    __s32 bytecode = naming->python->bytecode;

    number = number_of_code(naming, code);
    if (!number)
        return 0;
    naming->record->words[at] = NAMED | number;
    naming->record->words[next] = bytecode < 0 ? instruction & 0x7fffffff : instruction - code - (__u32)bytecode;
    return 0;
}

#endif
