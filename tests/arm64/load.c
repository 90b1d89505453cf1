// SPDX-License-Identifier: Apache-2.0
/*
 * The first process of an emulated ARM64 machine: loads every kernel program, and has a connect() balanced by one.
 * usage: load OBJECT...   Prints one line an object, and "N passed, M failed"; see script/test-arm64.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "alize/abi.h"

enum { ENTRIES = 16, FULL = (1 << SLOT_THRESHOLD_BITS) - 1 };

static const char CGROUP[] = "/sys/fs/cgroup/alize";

static int say(enum libbpf_print_level level, const char *format, va_list args)
{
	return level <= LIBBPF_WARN ? vfprintf(stderr, format, args) : 0;
}

static bool is_named(const char *path, const char *name)
{
	const char *last = strrchr(path, '/');
	return !strcmp(last ? last + 1 : path, name);
}

/* Sizes that user space gives the maps, and choices.may_ask_*, which Linux before 6.10 refuses (observe/choices.h). */
static struct bpf_object *load(const char *path)
{
	struct bpf_object *object = bpf_object__open_file(path, 0);
	if (!object)
		return 0;
	struct bpf_map *map;
	bpf_object__for_each_map(map, object) {
		static const __u32 no_choices[2];
		if (strstr(bpf_map__name(map), ".rodata.choices"))
			bpf_map__set_initial_value(map, no_choices, sizeof(no_choices));
		else if (strstr(bpf_map__name(map), ".rodata.asks"))
			bpf_map__set_initial_value(map, no_choices, sizeof(no_choices[0]));
		else if (bpf_map__max_entries(map) == 1 && bpf_map__type(map) != BPF_MAP_TYPE_PROG_ARRAY &&
			 !strchr(bpf_map__name(map), '.'))
			bpf_map__set_max_entries(map, ENTRIES);
	}
	int error = bpf_object__load(object);
	if (!error)
		return object;
	bpf_object__close(object);
	errno = -error;
	return 0;
}

static bool put(struct bpf_object *object, const char *map, const void *key, const void *value)
{
	int fd = bpf_object__find_map_fd_by_name(object, map);
	return fd >= 0 && !bpf_map_update_elem(fd, key, value, BPF_ANY);
}

static void v4_mapped(__be32 to[4], const char *address)
{
	to[0] = to[1] = 0;
	to[2] = htonl(0xffff);
	inet_pton(AF_INET, address, &to[3]);
}

/* Service 0 is `dialled`, and has one endpoint, `server`. */
static bool fill(struct bpf_object *object, const char *dialled, __be16 port, const struct sockaddr_in *server)
{
	__u32 zero = 0;
	struct frontend_key key = {.port = port, .protocol = IPPROTO_TCP};
	v4_mapped(key.address, dialled);
	struct endpoint endpoint = {
		.port = server->sin_port, .protocol = IPPROTO_TCP, .state = ENDPOINT_ACTIVE, .service = 0};
	v4_mapped(endpoint.address, "127.0.0.1");
	__u64 slot = (__u64)FULL << SLOT_THRESHOLD_SHIFT;
	__u64 word = 1ULL << SERVICE_LENGTH_SHIFT | (__u64)MODE_ENFORCE << SERVICE_MODE_SHIFT;
	struct service service = {.word4 = word, .word6 = word};
	return put(object, "endpoints", &zero, &endpoint) && put(object, "slots", &zero, &slot) &&
	       put(object, "services", &zero, &service) && put(object, "frontends", &key, &zero);
}

static bool join(void)
{
	char path[64];
	snprintf(path, sizeof(path), "%s/cgroup.procs", CGROUP);
	if (mkdir(CGROUP, 0755))
		return false;
	int file = open(path, O_WRONLY);
	return file >= 0 && write(file, "0", 1) == 1 && !close(file);
}

static int listening(struct sockaddr_in *address)
{
	socklen_t size = sizeof(*address);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	*address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	bool listens = !bind(listener, (struct sockaddr *)address, size) && !listen(listener, 1) &&
		       !getsockname(listener, (struct sockaddr *)address, &size);
	return listens ? listener : -1;
}

/* Whether a connect() to the service's address reaches the server, once the programs are there, and not before. */
static const char *balanced(struct bpf_object *connects)
{
	struct sockaddr_in server, service = {.sin_family = AF_INET, .sin_port = htons(80)};
	inet_pton(AF_INET, "127.77.0.1", &service.sin_addr);
	int listener = listening(&server);
	if (listener < 0 || !join())
		return "no listener, or no cgroup";
	int client = socket(AF_INET, SOCK_STREAM, 0);
	if (!connect(client, (struct sockaddr *)&service, sizeof(service)))
		return "somebody listens at the service's address";
	close(client);
	if (!fill(connects, "127.77.0.1", service.sin_port, &server))
		return "the maps cannot be written";
	struct bpf_program *program;
	int cgroup = open(CGROUP, O_RDONLY | O_DIRECTORY);
	bpf_object__for_each_program(program, connects) {
		if (!bpf_program__attach_cgroup(program, cgroup))
			return "a program cannot be attached";
	}
	client = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(client, (struct sockaddr *)&service, sizeof(service)))
		return strerror(errno);
	char byte = 0;
	int accepted = accept(listener, 0, 0);
	if (accepted < 0 || write(client, "x", 1) != 1 || read(accepted, &byte, 1) != 1 || byte != 'x')
		return "the bytes did not come";
	return 0;
}

int main(int argc, char **argv)
{
	int passed = 0, failed = 0;
	struct bpf_object *connects = 0;
	libbpf_set_print(say);
	for (int i = 1; i < argc; i++) {
		struct bpf_object *object = load(argv[i]);
		printf("%s %s%s%s\n", object ? "ok" : "FAILED", argv[i], object ? "" : ": ",
		       object ? "" : strerror(errno));
		passed += !!object;
		failed += !object;
		if (is_named(argv[i], "connect.o"))
			connects = object;
	}
	const char *why = connects ? balanced(connects) : "there is no connect.o";
	printf("%s a connect is balanced%s%s\n", why ? "FAILED" : "ok", why ? ": " : "", why ? why : "");
	printf("arm64: %d passed, %d failed\n", passed + !why, failed + !!why);
	return failed || why;
}
