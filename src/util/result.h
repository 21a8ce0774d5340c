/*-------------------------------------------------------------------------
 *
 * result.h
 *	  Tables for the executor's functions to write to, without a statement.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_RESULT_H
#define REHOME_RESULT_H

#include "nodes/execnodes.h"

extern ResultRelInfo *rehome_result_relation(EState *estate, Relation rel, Bitmapset *updated);

#endif							/* REHOME_RESULT_H */
