/* An emulated CUDA driver: as much of libcuda.so.1 as the engine uses, on the host's memory.
 *
 * - "Device" memory is malloc'ed; copies and kernels run at once, so streams are always finished.
 * - Every call needs a current context, as with a real driver.
 * - A stream that captures records launches (emulation_capturing tells a stand-in for TensorRT which graph it is in);
 *   replaying a graph calls back (emulation_on_launch).  Allocating while a stream captures breaks the capture.
 * - Live objects are counted (emulation_live): what is not given back is seen.
 *
 * Functions that PyCUDA is linked to and that are not here are added by tests/gpu/build.py; they return
 * CUDA_ERROR_NOT_SUPPORTED.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef unsigned long long Pointer;

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    STREAM_CAPTURE_UNSUPPORTED = 900,
    STREAM_CAPTURE_INVALIDATED = 901
};

typedef struct {
    int capture; /* 0: none, 1: captures, -1: a capture that was broken */
    int graph;
} Stream;

static __thread void *contexts[64]; /* of this thread, the current one last */
static __thread int depth;
static int memory, pinned, streams, events, graphs, executables, retained;
static int last_graph, context;
static Stream *capturing;
static int (*on_launch)(int graph);

#define NEED_CONTEXT if (!depth) return INVALID_CONTEXT

/* --- what tests ask --- */

void emulation_on_launch(int (*callback)(int)) { on_launch = callback; }

int emulation_capturing(void *stream) {
    Stream *s = stream;
    return s && s->capture ? s->graph : 0;
}

/* memory, pinned, streams, events, graphs, executables, retained primary contexts, depth of this thread's stack */
void emulation_live(int *out) {
    int counts[8] = {memory, pinned, streams, events, graphs, executables, retained, depth};
    memcpy(out, counts, sizeof counts);
}

/* --- driver and device --- */

Result cuInit(unsigned flags) { return SUCCESS; }
Result cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
Result cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
Result cuDeviceGet(int *device, int number) { *device = number; return number ? INVALID_DEVICE : SUCCESS; }
Result cuDeviceGetName(char *name, int size, int device) {
    snprintf(name, size, "NVIDIA H100 80GB HBM3");
    return SUCCESS;
}
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 1; /* compute capability 9.0 */
    return SUCCESS;
}
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 1ull << 36; return SUCCESS; }
Result cuGetErrorString(Result code, const char **text) { *text = "emulated error"; return SUCCESS; }
Result cuGetErrorName(Result code, const char **text) { *text = "CUDA_ERROR_EMULATED"; return SUCCESS; }

/* --- contexts --- */

Result cuDevicePrimaryCtxRetain(void **out, int device) { *out = &context; retained++; return SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int device) { retained--; return SUCCESS; }
Result cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }
Result cuCtxPushCurrent_v2(void *pushed) { contexts[depth++] = pushed; return SUCCESS; }
Result cuCtxPopCurrent_v2(void **popped) {
    NEED_CONTEXT;
    *popped = contexts[--depth];
    return SUCCESS;
}
Result cuCtxGetCurrent(void **current) { *current = depth ? contexts[depth - 1] : NULL; return SUCCESS; }
Result cuCtxGetDevice(int *device) { NEED_CONTEXT; *device = 0; return SUCCESS; }

/* --- memory --- */

Result cuMemAlloc_v2(Pointer *out, size_t size) {
    void *block;
    NEED_CONTEXT;
    if (capturing) {
        capturing->capture = -1;
        return STREAM_CAPTURE_UNSUPPORTED;
    }
    if (posix_memalign(&block, 256, size ? size : 1)) return OUT_OF_MEMORY;
    memset(block, 0x55, size);
    *out = (Pointer)block;
    memory++;
    return SUCCESS;
}
Result cuMemFree_v2(Pointer block) { NEED_CONTEXT; free((void *)block); memory--; return SUCCESS; }
Result cuMemHostAlloc(void **out, size_t size, unsigned flags) {
    NEED_CONTEXT;
    if (posix_memalign(out, 4096, size ? size : 1)) return OUT_OF_MEMORY;
    memset(*out, 0x33, size);
    pinned++;
    return SUCCESS;
}
Result cuMemFreeHost(void *block) { NEED_CONTEXT; free(block); pinned--; return SUCCESS; }
Result cuMemGetInfo_v2(size_t *available, size_t *total) {
    NEED_CONTEXT;
    *available = 1ull << 35;
    *total = 1ull << 36;
    return SUCCESS;
}
Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t size, void *stream) {
    NEED_CONTEXT;
    memcpy((void *)to, from, size);
    return SUCCESS;
}
Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t size, void *stream) {
    NEED_CONTEXT;
    memcpy(to, (void *)from, size);
    return SUCCESS;
}
Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t size, void *stream) {
    NEED_CONTEXT;
    memmove((void *)to, (void *)from, size);
    return SUCCESS;
}
Result cuMemsetD8Async(Pointer to, unsigned char byte, size_t size, void *stream) {
    NEED_CONTEXT;
    memset((void *)to, byte, size);
    return SUCCESS;
}

/* --- streams and events --- */

Result cuStreamCreate(void **out, unsigned flags) {
    NEED_CONTEXT;
    *out = calloc(1, sizeof(Stream));
    streams++;
    return SUCCESS;
}
Result cuStreamDestroy_v2(void *stream) { NEED_CONTEXT; free(stream); streams--; return SUCCESS; }
Result cuStreamSynchronize(void *stream) {
    NEED_CONTEXT;
    return stream && ((Stream *)stream)->capture ? STREAM_CAPTURE_UNSUPPORTED : SUCCESS;
}
Result cuEventCreate(void **out, unsigned flags) { NEED_CONTEXT; *out = malloc(8); events++; return SUCCESS; }
Result cuEventDestroy_v2(void *event) { NEED_CONTEXT; free(event); events--; return SUCCESS; }
Result cuEventRecord(void *event, void *stream) { NEED_CONTEXT; return SUCCESS; }
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) { NEED_CONTEXT; return SUCCESS; }

/* --- graphs --- */

Result cuStreamBeginCapture_v2(void *stream, int mode) {
    Stream *s = stream;
    NEED_CONTEXT;
    if (mode != 1) return INVALID_VALUE; /* CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
    s->capture = 1;
    s->graph = ++last_graph;
    capturing = s;
    return SUCCESS;
}
Result cuStreamEndCapture(void *stream, void **out) {
    Stream *s = stream;
    int broken = s->capture < 0, *graph;
    NEED_CONTEXT;
    s->capture = 0;
    capturing = NULL;
    *out = NULL;
    if (broken) return STREAM_CAPTURE_INVALIDATED;
    graph = malloc(sizeof *graph);
    *graph = s->graph;
    *out = graph;
    graphs++;
    return SUCCESS;
}
Result cuGraphInstantiateWithFlags(void **out, void *graph, Pointer flags) {
    int *executable;
    NEED_CONTEXT;
    executable = malloc(sizeof *executable);
    *executable = *(int *)graph;
    *out = executable;
    executables++;
    return SUCCESS;
}
Result cuGraphDestroy(void *graph) { NEED_CONTEXT; free(graph); graphs--; return SUCCESS; }
Result cuGraphLaunch(void *executable, void *stream) {
    NEED_CONTEXT;
    return on_launch ? on_launch(*(int *)executable) : SUCCESS;
}
Result cuGraphExecDestroy(void *executable) { NEED_CONTEXT; free(executable); executables--; return SUCCESS; }

/* --- how cuda-bindings looks functions up --- */

Result cuGetProcAddress_v2(const char *name, void **out, int version, Pointer flags, int *status) {
    static const char *const endings[] = {"_v2", "", "_v3", "WithFlags", NULL};
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    char whole[160];
    int n;
    *out = NULL;
    for (n = 0; library && endings[n] && !*out; n++) {
        snprintf(whole, sizeof whole, "%s%s", name, endings[n]);
        *out = dlsym(library, whole);
    }
    if (status) *status = *out ? 0 : 1;
    return *out ? SUCCESS : NOT_FOUND;
}
Result cuGetProcAddress(const char *name, void **out, int version, Pointer flags) {
    return cuGetProcAddress_v2(name, out, version, flags, NULL);
}
