/* Replays a corpus: runs a fuzz target over every file of the folders and files named. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static int run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct stat st;
    if (!file || fstat(fileno(file), &st) < 0 || st.st_size < 0) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return -1;
    }
    size_t bytes = (size_t)st.st_size;
    /* Exactly as large as the input, so that a sanitizer sees the first byte read beyond it. */
    uint8_t *data = malloc(bytes ? bytes : 1);
    int rc = data && fread(data, 1, bytes, file) == bytes ? 0 : -1;
    fclose(file);
    if (rc == 0)
        LLVMFuzzerTestOneInput(data, bytes);
    else
        fprintf(stderr, "%s: cannot be read\n", path);
    free(data);
    return rc;
}

static int run_folder(const char *path, int *count)
{
    DIR *dir = opendir(path);
    if (!dir) {
        fprintf(stderr, "%s: cannot be listed\n", path);
        return -1;
    }
    int rc = 0;
    for (struct dirent *entry; (entry = readdir(dir)) && rc == 0;) {
        char file[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
        rc = run_file(file);
        (*count)++;
    }
    closedir(dir);
    return rc;
}

int main(int argc, char **argv)
{
    int count = 0;
    for (int i = 1; i < argc; i++) {
        struct stat st;
        if (stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode)) {
            if (run_folder(argv[i], &count) < 0)
                return 1;
        } else {
            if (run_file(argv[i]) < 0)
                return 1;
            count++;
        }
    }
    printf("%d inputs replayed\n", count);
    return count ? 0 : 1;
}
