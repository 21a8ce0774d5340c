/*-------------------------------------------------------------------------
 *
 * definition.h
 *	  A migration's definition as a document.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_DEFINITION_H
#define REHOME_DEFINITION_H

#include "catalog/migration.h"

extern char *rehome_definition(RehomeMigration *migration);
extern char *rehome_rules_hash(RehomeSlice *slice);
extern char *rehome_rules_detail(RehomeSlice *slice, const char *detail);

#endif							/* REHOME_DEFINITION_H */
