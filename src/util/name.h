/*-------------------------------------------------------------------------
 *
 * name.h
 *	  Names of local objects as SQL, and lists of names.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_NAME_H
#define REHOME_NAME_H

#include "nodes/pg_list.h"

extern char *rehome_relation_name(Oid relid);
extern List *rehome_name_list(const char *array);
extern bool rehome_name_listed(List *names, const char *name);
extern char *rehome_name_array(List *names);
extern char *rehome_without_parent(List *columns, const char *parent, List *refs, List *operators);

#endif							/* REHOME_NAME_H */
