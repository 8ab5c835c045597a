/* Says hello, echoes its command line, and ends. */
#include "rt.h"

void guest_main(void)
{
	print("hello from a guest\n");
	print("cmdline: %s\n", boot_cmdline);
}
