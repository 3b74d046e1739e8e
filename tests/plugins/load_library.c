// Loads a plugin library and counts its creators: enough to show that every symbol is there, on a processor that only
// an emulator has.
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char** arguments) {
    void* library = count == 2 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    if (library == NULL) {
        fprintf(stderr, "%s\n", count == 2 ? dlerror() : "usage: load_library LIBRARY");
        return 1;
    }
    void* (*get_creators)(int*) = (void* (*)(int*))dlsym(library, "getCreators");
    int creators = 0;
    if (get_creators == NULL || get_creators(&creators) == NULL) return 1;
    printf("%d creators\n", creators);
    return 0;
}
