/* From a description to a machine that is ready to run. */
#ifndef REVIRT_REVIRTER_ASSEMBLE_H
#define REVIRT_REVIRTER_ASSEMBLE_H

#include "revirter/description.h"
#include "revirter/vm.h"

/*
 * Makes everything the description names, opening every file on the way. vm->machine.main_loop is
 * there. After an error disassemble() takes down what was made.
 */
int assemble(struct vm *vm, const struct description *desc, struct error **err);

/* Starts the I/O threads. After the process has entered its sandbox. */
int assemble_start_threads(struct vm *vm, void (*enter)(void), struct error **err);

void disassemble(struct vm *vm);

#endif
