/*-------------------------------------------------------------------------
 *
 * postgres.h
 *	  What cppcheck has to know of PostgreSQL's headers, which themselves it
 *	  does not get through in reasonable time: the macros that are syntax.
 *
 *-------------------------------------------------------------------------
 */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define PG_VERSION_NUM 150000

#define foreach(cell, list) \
	for (cell = list_head(list); cell != NULL; cell = lnext(list, cell))
#define forboth(cell1, list1, cell2, list2) \
	for (cell1 = list_head(list1), cell2 = list_head(list2); \
		 cell1 != NULL && cell2 != NULL; \
		 cell1 = lnext(list1, cell1), cell2 = lnext(list2, cell2))

#define dlist_foreach_modify(iter, lhead) \
	for ((iter).cur = (lhead)->head.next; (iter).cur != &(lhead)->head; (iter).cur = (iter).next)
#define CppAsString2(x) #x

/* What happens in the first block may end anywhere, and the next one follow. */
#define PG_TRY() if (sigsetjmp() == 0)
#define PG_CATCH() else
#define PG_FINALLY()
#define PG_END_TRY()

#define pg_attribute_noreturn() __attribute__((noreturn))
#define pg_attribute_printf(f, a) __attribute__((format(printf, f, a)))
#define PG_FUNCTION_ARGS FunctionCallInfo fcinfo
#define PG_FUNCTION_INFO_V1(name) struct name##_info
#define PGDLLEXPORT
#define ereport(level, ...) \
	do { (void) (__VA_ARGS__); if ((level) >= ERROR) abort(); } while (0)
#define elog(level, ...) \
	do { (void) (__VA_ARGS__); if ((level) >= ERROR) abort(); } while (0)
#define ERROR 21
#define FATAL 22
