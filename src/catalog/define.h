/*-------------------------------------------------------------------------
 *
 * define.h
 *	  Checking and storing definitions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_DEFINE_H
#define REHOME_DEFINE_H

#include "catalog/migration.h"
#include "util/problems.h"
#include "utils/rel.h"

extern int	rehome_define_table(RehomeCall *call, RehomeSlice *slice, Oid source, Oid target,
								List *key, const char *filter, bool imported);
extern void rehome_check_table_map(RehomeTableMap *map, RehomeProblems *problems);

#endif							/* REHOME_DEFINE_H */
